"""A stage that is asked to stop, by USR1 or TERM: a training that has begun saves first, all else ends at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from focalpo.stages.folder import CHECKPOINTS, SAVES, STOP, Job, Stopped

SAVING = ("sft", "train")
LEFT = "asked to stop, run the same command again to resume"


@contextlib.contextmanager
def stopping(job: Job) -> Iterator[list[int]]:
    """While open, USR1 and TERM stop the stage; yields the signals that have come.

    A training that takes steps saves and leaves. Everything else ends at once: its work is recorded as it goes, or soon
    done again.
    """
    came: list[int] = []

    def asked(number: int, frame: object) -> None:
        came.append(number)
        if not saves(job.path):
            raise Stopped(LEFT)
        ask_to_save(job.path)

    if int(os.environ.get("RANK", "0")) == 0:
        for name in (STOP, SAVES):  # of a run that was killed
            (job.path / CHECKPOINTS / name).unlink(missing_ok=True)
    before = {number: signal.signal(number, asked) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def saves(path: Path) -> bool:
    """Whether the stage in this folder would save when it is asked to stop now."""
    return (path / CHECKPOINTS / SAVES).exists()


def ask_to_save(path: Path) -> None:
    """A file, not a signal: every rank sees it, whoever started it."""
    (path / CHECKPOINTS).mkdir(exist_ok=True)
    (path / CHECKPOINTS / STOP).touch()
