"""Run one stage, in this process or in new ones; the stage folder alone describes it.

python -m focalpo.running.worker STAGE_FOLDER                  in one process
torchrun ... -m focalpo.running.worker STAGE_FOLDER            in several ranks; rank 0 holds the lock and seals
    --ranks=N --threads=N       refuse any other number of ranks; threads of each

USR1 and TERM ask it to stop: training saves first. It then exits with code 75; start it again to resume.
"""

import argparse
import contextlib
import importlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from focalpo.config.mistakes import USAGE, Mistake
from focalpo.processes.importing import importing
from focalpo.processes.lifeline import end_with, leave
from focalpo.processes.quiet import quiet
from focalpo.running.launching import RANKED, STACKS, in_new_processes
from focalpo.running.out_of_memory import explaining_out_of_memory
from focalpo.running.partial import make_of_sealed
from focalpo.running.stopping import stopping
from focalpo.stages.code import recipe_of
from focalpo.stages.cores import cores_each
from focalpo.stages.disk import explaining_disk_errors
from focalpo.stages.folder import ERROR, Damaged, Folder, Job, Stage, Stopped, verify
from focalpo.stages.memory import free_kept
from focalpo.training.settings import TrainSettings

AGAIN = 75  # EX_TEMPFAIL of sysexits.h
RANKS_WAIT = 60.0  # seconds to wait for a lock: the other ranks wait meanwhile, and not forever


def make(runs: Path, stage: Stage) -> float:
    """Run a stage unless it is already sealed; returns the seconds it took, 0 when there was nothing to do.

    Waits while another process makes the same stage: another command on the same runs folder.
    """
    return _make(Folder(runs, stage))


def _make(folder: Folder) -> float:
    if folder.sealed:
        return 0.0
    ranks = folder.job.launch.get("ranks", 1) if folder.job.kind in RANKED else 1
    if ranks == 1 and not _keeps_memory(folder.job):
        return make_here(folder, math.inf)
    folder.wait()  # here, where no other rank waits with us
    if folder.sealed:
        return 0.0
    started = time.monotonic()
    for path in folder.job.inputs.values():
        repair(path)
    in_new_processes(folder.job, ranks)
    return time.monotonic() - started


def repair(path: Path) -> None:
    """Run the stage of an input again when the input does not match its manifest; a damaged input is never used."""
    if _break_if_damaged(path):
        _make(Folder.at(path))


def make_here(
    folder: Folder,
    patience: float = 1.0,
    check: Callable[[Path], None] = repair,
    agree: Callable[[bool], object] = lambda go: None,
) -> float:
    """Run a stage in this process and seal it.

    Args:
        patience: seconds to wait for another process that runs the stage.
        check: called with each input before it is read.
        agree: called with whether there is anything to run, once we hold the lock and the inputs are intact.

    Raises:
        ValueError: when the stage fails; the folder's `error.txt` has the same message.
        Stopped: when a signal asked for it.
    """
    with folder.being_made(patience) as job:
        if folder.sealed:  # by the previous holder of the lock
            agree(False)
            return 0.0
        (job.path / ERROR).unlink(missing_ok=True)
        try:
            for path in job.inputs.values():
                check(path)
            agree(True)
            started = time.monotonic()
            facts = recipe(job)
        except ValueError as error:
            (job.path / ERROR).write_text(f"{error}\n")
            raise
        seconds = time.monotonic() - started
        folder.seal(seconds, facts)
    free_kept()
    return seconds


def refuse_damaged(path: Path) -> None:
    """As `repair`, for a job that cannot run its inputs' stages: it has other GPUs, or other ranks wait for it.

    Raises:
        ValueError: when the input does not match its manifest; its seal is then broken.
    """
    if damage := _break_if_damaged(path):
        raise ValueError(f"{damage}; run the command that submitted this job again")


def _trust(path: Path) -> None:
    """Skip the check, for a process whose parent has already checked the input."""


def _break_if_damaged(path: Path) -> str | None:
    """Return what is wrong with a folder, if anything, after breaking its seal."""
    if not _damage(path):
        return None
    folder = Folder.at(path)
    with folder.being_made(math.inf):
        damage = _damage(path)  # None when the previous holder of the lock has repaired it
        if damage and folder.sealed:
            print(damage, file=sys.stderr)
            folder.break_seal()
        return damage


def _damage(path: Path) -> str | None:
    try:
        verify(path)
    except Damaged as damage:
        return str(damage)
    return None


def recipe(job: Job) -> dict:
    """Call the recipe for the job's kind, with the threads that its settings name."""
    if "threads" in job.settings:
        import torch

        torch.set_num_threads(job.settings["threads"])
    with naming_own_keys(job), explaining_disk_errors(job.path), explaining_out_of_memory(job), stopping(job):
        module, name = recipe_of(job.kind)
        with importing():
            make_kind = getattr(importlib.import_module(module), name)
        return _tracked(job, make_kind)


@contextlib.contextmanager
def naming_own_keys(job: Job) -> Iterator[None]:
    """Name a phase's settings by their own keys: `train.global_batch` of supervised fine-tuning is not the one that
    preference training has."""
    try:
        yield
    except ValueError as error:
        if "phase" not in job.launch:
            raise
        names = "|".join(each.name for each in fields(TrainSettings))
        own = rf"model.phases.{job.launch['phase']}.train.\1"
        raise ValueError(re.sub(rf"(?<![\w./])train\.({names})\b", own, str(error))) from error


def _tracked(job: Job, make: Callable[[Job], dict]) -> dict:
    """Call `make` with a tracker open; recipes that run in ranks open their tracker themselves."""
    if job.kind in RANKED:
        return make(job)
    from focalpo.running.tracking import tracker_of

    with tracker_of(job) as tracker:
        facts = make(job)
        if tracker is not None:
            tracker.summary(facts)
    return facts


def _keeps_memory(job: Job) -> bool:
    """Whether the stage holds GPU memory or vLLM caches, which only the end of its process frees for the next one."""
    import torch

    return torch.cuda.is_available() or job.settings.get("backend") == "vllm"


def main(path: Path, ranks: int | None = None, threads: int | None = None) -> None:
    """Run one process of a stage: the only one, or one of several ranks.

    Raises:
        ValueError: when the stage fails, or the launcher started another number of ranks.
    """
    check_world(path, ranks)
    parent, ranked = os.environ.pop("FOCALPO_MAKER", None), "RANK" in os.environ
    if parent:
        end_with(int(parent))
    if ranked:
        end_with(os.getppid())  # torchrun
    folder = Folder.at(path)
    job = folder.job
    quiet(threads or int(os.environ.get("OMP_NUM_THREADS", cores_each(1))))
    check = repair
    if parent:
        check = _trust
    elif ranked or "SLURM_JOB_ID" in os.environ:
        check = refuse_damaged
    if not ranked:
        make_of_sealed(folder, lambda each: make_here(each, math.inf, check))
        return
    from focalpo.training.ranks import watch

    (job.path / STACKS).mkdir(exist_ok=True)
    watch(job.launch["hang_seconds"], job.path / STACKS)
    if os.environ["RANK"] == "0":
        make_here(folder, RANKS_WAIT, check, _agree)
    elif _agree(False):
        recipe(job)


def check_world(path: Path, ranks: int | None) -> None:
    """Refuse to run in another number of ranks than was asked for: weights would be split, and stored, differently."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks is not None and world != ranks:
        reason = (
            f"{ranks} ranks were asked for and {world} started (WORLD_SIZE); check the launcher, then submit it again"
        )
        (path / ERROR).write_text(f"{reason}\n")
        raise ValueError(reason)


def arguments(words: list[str]) -> tuple[Path, int | None, int | None]:
    """The stage folder, ranks and threads of a command line.

    Raises:
        ValueError: when it names no stage folder, or holds anything else.
    """
    parser = argparse.ArgumentParser("python -m focalpo.running.worker", add_help=False)
    parser.add_argument("stage", type=Path, nargs="?")
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--threads", type=int)
    given, unread = parser.parse_known_args(words)
    if unread or given.stage is None or not (given.stage / "stage.json").is_file():
        shown = " ".join(unread or words) or "nothing"
        raise Mistake(f"{shown} is no folder of a stage; run python -m focalpo.running.worker RUNS/KIND/NAME")
    return given.stage, given.ranks, given.threads


def _agree(go: bool) -> bool:
    """Whether rank 0 has something to run: the other ranks must not start work that it would not join."""
    import torch

    from focalpo.training.engine import start_ranks
    from focalpo.training.ranks import device, sum_over_ranks

    start_ranks()
    return bool(sum_over_ranks(torch.tensor(float(go), device=device())) > 0)


if __name__ == "__main__":
    try:
        main(*arguments(sys.argv[1:]))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        leave(AGAIN)
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        leave(USAGE)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        leave(1)
    leave()
