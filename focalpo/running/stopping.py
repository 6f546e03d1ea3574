"""Stop a stage on USR1 or TERM: a training that has begun its steps saves first, anything else ends at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from focalpo.stages.folder import CHECKPOINTS, SAVES, STOP, Job, Stopped

STOPPED = "stopped; sealed stages are kept, run the same command again to resume"
LEFT = "asked to stop, run the same command again to resume"


@contextlib.contextmanager
def stopping(job: Job) -> Iterator[list[int]]:
    """While the context is open, USR1 and TERM stop the stage; yields the list of signals received so far.

    A training that has begun its steps saves and exits, or finishes once it has taken the last one. Anything else ends
    at once: its work is recorded as it goes, or is quick to repeat.
    """
    signals: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        signals.append(number)
        if not saves(job.path):
            raise Stopped(LEFT)
        ask_to_save(job.path)

    if int(os.environ.get("RANK", "0")) == 0:
        for name in (STOP, SAVES):  # left by a killed run
            (job.path / CHECKPOINTS / name).unlink(missing_ok=True)
    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def saves(path: Path) -> bool:
    """Whether the stage in this folder would lose steps if it were killed instead of asked to stop."""
    return (path / CHECKPOINTS / SAVES).exists()


def ask_to_save(path: Path) -> None:
    """Ask a training to save and exit. A file, unlike a signal, reaches every rank regardless of its launcher."""
    (path / CHECKPOINTS).mkdir(exist_ok=True)
    (path / CHECKPOINTS / STOP).touch()
