"""Run stages in worker processes, each after its inputs, and show their progress.

    [ 37/262] train/base-dpo-s1-0123456789ab  6.1 s       one line per finished stage, with its scores and warnings
    [###.................] 37/262  4:12 left                                             on a terminal, followed by
      train/base-dpo-s2  80/122  27/s  0:02 left  loss 0.41  accuracy 0.72  0.9 GB         one live line per stage

A stage that fails does not stop the others; stages that depend on it are skipped, and all failures are reported at the
end.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from focalpo.running.pool import Pool
from focalpo.running.remade import changed_code
from focalpo.stages.folder import Folder, Stage, read_manifest


def run_stages(
    runs: Path,
    stages: list[Stage],
    workers: int,
    silent: bool = False,
    scores: Callable[[Folder], str] = lambda folder: "",
) -> int:
    """Run the stages that are not sealed and return how many ran; `silent` reports only failures, `scores` says what a
    finished stage has measured.

    Raises:
        ValueError: when stages fail, with one line for each.
    """
    done = {stage.key for stage in stages if Folder(runs, stage).sealed}
    waiting = [stage for stage in stages if stage.key not in done]
    if not silent:
        sealed = [stage for stage in stages if stage.key in done]
        print("".join(f"{line}\n" for line in changed_code(runs, waiting, sealed)), end="", flush=True)
    if not waiting:
        return 0
    display = Display(runs, total=len(stages), sealed=len(done), silent=silent)
    failures: dict[str, str] = {}
    with Pool(workers) as pool:
        while waiting or pool.stages:
            for stage in _ready(waiting, done)[: pool.free]:
                waiting.remove(stage)
                pool.start(runs, stage)
            if not pool.stages:
                break  # every waiting stage needs a failed one
            for stage, outcome in pool.finished(timeout=0.5):
                if isinstance(outcome, str):
                    failures[stage.title] = outcome
                    display.line(f"failed  {stage.title}")
                else:
                    done.add(stage.key)
                    folder = Folder(runs, stage)
                    display.finished(stage, outcome, "" if silent else scores(folder))
                    display.warn(read_manifest(folder.path)["facts"].get("warnings", []))
            display.running(pool.stages)
    display.close()
    display.spent()
    assert failures or not waiting, "a stage's inputs must be among the stages"
    if failures:
        skipped = f"\n{len(waiting)} stages that depend on them were not started" if waiting else ""
        raise ValueError("\n".join(f"{title}: {reason}" for title, reason in failures.items()) + skipped)
    return len(done) - display.sealed


def _ready(waiting: list[Stage], done: set[str]) -> list[Stage]:
    return [stage for stage in waiting if all(needed.key in done for needed in stage.needed)]


class Display:
    """Shows live lines on a terminal, one plain line per finished stage elsewhere, and nothing when silent."""

    def __init__(self, runs: Path, total: int, sealed: int, silent: bool = False) -> None:
        self.runs, self.total, self.sealed, self.silent = runs, total, sealed, silent
        self.count = sealed
        self.started = time.monotonic()
        self.since: dict[str, float] = {}  # when each stage was first seen running
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # of a worker, by kind of stage
        self.live = sys.stdout.isatty() and not silent
        self.drawn = 0
        self.warned: set[str] = set()
        if sealed:
            self.line(f"{sealed} of {total} stages are already sealed")

    def finished(self, stage: Stage, seconds: float, scores: str = "") -> None:
        self.count += 1
        self.seconds[stage.kind].append(seconds)
        width = len(str(self.total))
        self.line(
            f"[{self.count:{width}}/{self.total}] {stage.title}  {seconds:.1f} s" + (f"  {scores}" if scores else "")
        )

    def warn(self, warnings: Sequence[str]) -> None:
        """Show what a finished stage warns of; many stages give the same warning, which is shown once."""
        for warning in warnings:
            if warning not in self.warned:
                self.line(f"  WARNING: {warning}")
        self.warned.update(warnings)

    def running(self, stages: list[Stage]) -> None:
        if not self.live:
            return
        lines = [f"{_bar(self.count / self.total)} {self.count}/{self.total}{self._left()}"]
        lines += [f"  {stage.kind}/{stage.name}  {self._progress(stage)}" for stage in stages]
        columns = os.get_terminal_size().columns
        sys.stdout.write(self._erased() + "\n".join(text[: columns - 1] for text in lines))
        sys.stdout.flush()
        self.drawn = len(lines)

    def line(self, text: str) -> None:
        if not self.silent:
            print(self._erased() + text, flush=True)

    def close(self) -> None:
        sys.stdout.write(self._erased())

    def spent(self) -> None:
        """Say which kinds of stages took the workers' time, the longest first."""
        kinds = sorted(self.seconds.items(), key=lambda kind: -sum(kind[1]))
        if self.count - self.sealed > 1:
            self.line("workers' time: " + ", ".join(f"{len(s)} {kind} {clock(sum(s))}" for kind, s in kinds))

    def _erased(self) -> str:
        """The control codes that move the cursor back over the live lines and clear them."""
        wipe = "\033[A\033[K" * (self.drawn - 1)
        text = "\r\033[K" + wipe if self.drawn else ""
        self.drawn = 0
        return text

    def _left(self) -> str:
        finished = self.count - self.sealed
        if not finished:
            return ""
        return f"  {clock((time.monotonic() - self.started) / finished * (self.total - self.count))} left"

    def _progress(self, stage: Stage) -> str:
        """The progress that the stage reports, or else how long it has been running."""
        since = self.since.setdefault(stage.title, time.monotonic())
        try:
            state = json.loads((Folder(self.runs, stage).path / "progress.json").read_text())
        except FileNotFoundError:
            return clock(time.monotonic() - since)
        rate = state["done"] / max(state["seconds"], 1e-9)
        left = clock((state["total"] - state["done"]) / max(rate, 1e-9))
        values = [f"{name} {state[name]:.3g}" for name in ("loss", "accuracy", "tokens/s") if name in state]
        parts = [f"{state['done']}/{state['total']}", f"{rate:.3g}/s", f"{left} left", *values]
        return "  ".join([*parts, f"{state['memory_gb']:.1f} GB"] if "memory_gb" in state else parts)


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any: 4:12, 1:04:12."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _bar(share: float) -> str:
    filled = int(share * 20)
    return "[" + "#" * filled + "." * (20 - filled) + "]"
