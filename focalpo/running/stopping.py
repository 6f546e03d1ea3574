"""A stage that is asked to stop, by USR1 or TERM: what saves does so first, the others leave at once."""

import contextlib
import os
import signal
from collections.abc import Iterator

from focalpo.stages.folder import STOP, Job, Stopped

SAVING = ("sft", "train")
LEFT = "asked to stop, run the same command again to go on"


@contextlib.contextmanager
def stopping(job: Job) -> Iterator[list[int]]:
    """While open, USR1 and TERM stop the stage: training after its next step, saved; the others at once, since what
    they have done is recorded as they go or soon done again. Yields the signals that have come."""
    stop, came = job.path / ".checkpoints" / STOP, []

    def asked(number: int, frame: object) -> None:
        came.append(number)
        if job.kind not in SAVING:
            raise Stopped(LEFT)
        ask_to_save(job)

    if int(os.environ.get("RANK", "0")) == 0:
        stop.unlink(missing_ok=True)
    before = {number: signal.signal(number, asked) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ask_to_save(job: Job) -> None:
    """A file, not a signal: every rank sees it, whoever started it."""
    stop = job.path / ".checkpoints" / STOP
    stop.parent.mkdir(exist_ok=True)
    stop.touch()
