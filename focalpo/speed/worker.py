"""The process in which a session's rows are measured, one after another, so that imports and the GPU's start are paid
for once. It returns what a row found, or why it could not be measured, and frees what the row had allocated."""

import gc
import os
import re
import traceback
from functools import cached_property
from pathlib import Path

import torch
import transformers

from focalpo.processes.quiet import quiet
from focalpo.speed.measured import forget_peak, peak_bytes
from focalpo.speed.plan import Run, planned
from focalpo.speed.tasks import FAILED, MEMORY, MISSING, OK, Task
from focalpo.stages.cores import cores
from focalpo.stages.memory import is_out_of_memory

GIB = 1 << 30
SAID = re.compile(r"Tried to allocate [\d.]+ \w+")  # what torch says first of a GPU that is full


class Worker:
    """Runs tasks by name; `benches` are names of conf/bench, the most important first. It writes to the file `log`."""

    def __init__(self, benches: list[str], log: Path) -> None:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, 1)
        os.dup2(written, 2)
        quiet(cores())
        self.benches = benches

    @cached_property
    def planned(self) -> dict[str, tuple[Task, Run]]:
        return {task.name: (task, run) for task, run in planned(self.benches)}

    def here(self) -> str:
        """What this machine has, in words."""
        found = f"torch {torch.__version__}, transformers {transformers.__version__}"
        if not torch.cuda.is_available():
            return f"no GPU, {cores()} cores; {found}"
        about = torch.cuda.get_device_properties(0)
        return f"{about.name}, {about.total_memory / GIB:.0f} GiB, sm_{about.major}{about.minor}; {found}"

    def plan(self) -> list[Task]:
        """All tasks, the most valuable first.

        Raises:
            ValueError: when a configuration is wrong.
        """
        return [task for task, _ in self.planned.values()]

    def run(self, name: str, place: int, logps: dict) -> tuple[str, str, dict]:
        """Run a task at one of its sizes: the result, why if it is not OK, and the figures, of which `held_bytes` is
        what stays allocated on the GPU."""
        forget_peak()
        result, why, figures = OK, "", {}
        try:
            figures = self.planned[name][1](place, logps)
        except ModuleNotFoundError as error:
            result, why = MISSING, str(error.name)
        except (RuntimeError, ValueError, MemoryError) as error:
            traceback.print_exc()
            result, why = (MEMORY if is_out_of_memory(error) else FAILED), _reason(error)
        if result == MEMORY:
            why += f"; {peak_bytes() / GIB:.1f} GiB in use at the peak"
        return result, why, figures | {"held_bytes": _free()}


def _reason(error: BaseException) -> str:
    said = SAID.search(str(error))
    return said[0] if said else (str(error).strip().splitlines() or [type(error).__name__])[0]


def _free() -> int:
    """Free what nothing refers to; return the bytes of the GPU that are still allocated."""
    gc.collect()
    if not torch.cuda.is_available():
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()
