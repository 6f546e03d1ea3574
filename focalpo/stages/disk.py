"""Errors of the disk while a stage is made, in words for the user."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from focalpo.stages.reading import os_remedy

DISK_ERRORS = {
    errno.ENOSPC: "no space left on the disk of {}; free some space",
    errno.EDQUOT: "the disk quota of {} is exhausted; free some space",
    errno.EROFS: "{} is on a read-only disk; set runs= to a writable folder",
    errno.EACCES: "no permission to write {}; set runs= to a writable folder",
}


@contextlib.contextmanager
def explaining_disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk (no space, quota, no permission, read-only) and of its files into a line for the user.

    Raises:
        ValueError: in place of such an error, whichever way the calling library wraps it.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        message = next((DISK_ERRORS[c] for c in DISK_ERRORS if number == c or f"os error {c})" in str(error)), None)
        if message is None:
            if isinstance(error, OSError) and error.filename is not None:
                raise ValueError(f"{error.filename}: {os_remedy(error)}") from error
            raise
        raise ValueError(f"{message.format(path)} and run again") from error
