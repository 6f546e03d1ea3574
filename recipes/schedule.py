"""Run stages in worker processes, inputs before what uses them, and show how far they are.

    [ 37/262] train/base-dpo-s1-0123456789ab  6.1 s                                      a line per finished stage
    [###.................] 37/262  4:12 left  train/base-dpo-s2 80/122 27/s loss 0.41     a live line on a terminal

A stage that fails does not stop the others; what depends on it is left out, and all failures are told at the end.
"""

import json
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path

from focalpo.artifact import Folder, Stage
from focalpo.training.checkpoint import Stopped
from recipes.quiet import cores_each, quiet_worker
from recipes.worker import make


def run_stages(runs: Path, stages: list[Stage], workers: int) -> int:
    """Make the stages that are not sealed; returns how many were made.

    Raises:
        ValueError: when stages failed, one line each.
    """
    done = {stage.title for stage in stages if Folder(runs, stage).sealed}
    waiting = [stage for stage in stages if stage.title not in done]
    if not waiting:
        return 0
    display = Display(runs, total=len(stages), sealed=len(done))
    failures: dict[str, str] = {}
    running: dict[Future, Stage] = {}
    # Threads follow the configured workers, not how many are busy: a sum's last bits depend on the number of threads,
    # and a stage must come out the same whether it is made first, alone, or again after a kill.
    with ProcessPoolExecutor(workers, get_context("spawn"), quiet_worker, (cores_each(workers),)) as pool:
        try:
            while waiting or running:
                for stage in _ready(waiting, done)[: workers - len(running)]:
                    waiting.remove(stage)
                    running[pool.submit(make, runs, stage)] = stage
                if not running:
                    break  # what still waits needs a stage that failed
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    stage = running.pop(future)
                    _take(future, stage, done, failures, display)
                display.running(list(running.values()))
        except KeyboardInterrupt:
            for child in active_children():
                child.terminate()  # training saves first, see recipes/worker.py
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    display.close()
    if failures:
        left = f"\n{len(waiting)} stages that need them were not started" if waiting else ""
        raise ValueError("\n".join(f"{title}: {why}" for title, why in failures.items()) + left)
    return len(done) - display.sealed


def _ready(waiting: list[Stage], done: set[str]) -> list[Stage]:
    return [stage for stage in waiting if all(needed.title in done for needed in stage.inputs.values())]


def _take(future: Future, stage: Stage, done: set[str], failures: dict[str, str], display: "Display") -> None:
    try:
        seconds = future.result()
    except (ValueError, Stopped) as error:
        failures[stage.title] = str(error)
        display.line(f"failed  {stage.title}")
    except BrokenProcessPool:
        raise ValueError(
            f"a worker was killed while it made {stage.title} (out of memory?); lower launch.workers and run again"
        ) from None
    else:
        done.add(stage.title)
        display.finished(stage, seconds)


class Display:
    """A live line on a terminal, plain lines elsewhere."""

    def __init__(self, runs: Path, total: int, sealed: int) -> None:
        self.runs, self.total, self.sealed = runs, total, sealed
        self.count = sealed
        self.started = time.monotonic()
        self.live = sys.stdout.isatty()
        if sealed:
            self.line(f"{sealed} of {total} stages are sealed already")

    def finished(self, stage: Stage, seconds: float) -> None:
        self.count += 1
        width = len(str(self.total))
        self.line(f"[{self.count:{width}}/{self.total}] {stage.title}  {seconds:.1f} s")

    def running(self, stages: list[Stage]) -> None:
        if not self.live:
            return
        text = f"{_bar(self.count / self.total)} {self.count}/{self.total}{self._left()}  "
        text += "   ".join(f"{stage.kind}/{stage.name}{self._progress(stage)}" for stage in stages)
        columns = os.get_terminal_size().columns
        sys.stdout.write("\r\033[K" + text[: columns - 1])
        sys.stdout.flush()

    def line(self, text: str) -> None:
        print(("\r\033[K" if self.live else "") + text, flush=True)

    def close(self) -> None:
        if self.live:
            sys.stdout.write("\r\033[K")

    def _left(self) -> str:
        made = self.count - self.sealed
        if not made:
            return ""
        seconds = (time.monotonic() - self.started) / made * (self.total - self.count)
        return f"  {int(seconds // 60)}:{int(seconds % 60):02d} left"

    def _progress(self, stage: Stage) -> str:
        try:
            state = json.loads((Folder(self.runs, stage).path / "progress.json").read_text())
        except FileNotFoundError:
            return ""
        extra = "".join(f" {name} {state[name]:.3g}" for name in ("loss", "accuracy") if name in state)
        rate = state["done"] / max(state["seconds"], 1e-9)
        return f" {state['done']}/{state['total']} {rate:.0f}/s{extra}"


def _bar(share: float) -> str:
    filled = int(share * 20)
    return "[" + "#" * filled + "." * (20 - filled) + "]"
