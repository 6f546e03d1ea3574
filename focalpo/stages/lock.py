"""The lock of a stage folder: one process makes a stage, the others wait; the kernel frees a dead owner's."""

import contextlib
import errno
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
SHORT = 1.0  # seconds: longer than `make status` holds a lock to check it
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def held(path: Path) -> bool:
    """Whether a live process holds the lock of a stage folder; False for a folder of others, where we may not try."""
    if not os.access(path / LOCK, os.W_OK):
        return False
    lock = FileLock(path / LOCK, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextlib.contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold the lock of a stage folder; wait at most `patience` seconds for it, and say once that we wait."""
    # Never the library's other lock, a file that a killed process leaves behind.
    lock = FileLock(path / LOCK, fallback_to_soft=False, thread_local=False)
    try:
        try:
            lock.acquire(timeout=min(patience, SHORT), poll_interval=0.1)
        except Timeout:
            if patience > SHORT:
                print(f"waiting for {path}, which another process is making", file=sys.stderr, flush=True)
            lock.acquire(timeout=-1 if patience == math.inf else max(0.0, patience - SHORT), poll_interval=0.1)
    except Timeout:
        raise ValueError(f"{path} is being made by another process; wait for it or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ValueError(
            f"the file system of {path} has no file locks ({error.strerror}); set runs= to a folder on another one"
        ) from error
    try:
        yield
    finally:
        lock.release()
