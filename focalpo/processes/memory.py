"""The memory of a process: how much it has held, and that it keeps what it frees."""

import ctypes
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT = 32 << 20  # bytes; the most that glibc allows, and larger holes would hardly be filled again


def keep_freed() -> None:
    """Let malloc keep what is freed, for the next step asks for the same blocks: given back, they would be mapped anew
    and zeroed page by page, each time. Who sets malloc's own variables has decided otherwise, and is left alone."""
    if not any(name.startswith("MALLOC_") for name in os.environ):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def resident_peak() -> int:
    """Bytes of this process's resident set at its largest so far.

    Not getrusage: its maximum begins with what the parent held when it started this process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
