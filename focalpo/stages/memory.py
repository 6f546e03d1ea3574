"""Process memory: the peak resident size, a malloc setting that keeps freed blocks, and errors of running out of it."""

import ctypes
import gc
import os
import re
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_KEPT = 32 << 20  # bytes; the most that glibc allows, and larger gaps would rarely be reused
WORTH_FREEING = 2 << 30  # bytes; the search for garbage takes a third of a second, as long as a small stage

# Messages of torch's CPU allocator, and of those errors of a GPU for which torch has no class of its own.
REFUSED = re.compile(r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED")


def keep_freed() -> None:
    """Make malloc keep freed blocks, because the next step allocates the same sizes.

    Blocks returned to the system would be mapped and zeroed again, page by page, at every step. If the user sets
    malloc's own environment variables (MALLOC_*), nothing is changed.
    """
    if not any(name.startswith("MALLOC_") for name in os.environ):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def free_kept() -> None:
    """Give back what a stage left in a large process: objects that refer to each other, and malloc's freed blocks.

    Otherwise a process that trains models of 135M parameters, one after the other, grows by 1 to 2 GB with each.
    """
    if _status("VmRSS") > WORTH_FREEING:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def resident_peak() -> int:
    """Peak resident set of this process so far, in bytes.

    Not from getrusage: its maximum starts at the parent's size when this process was started.
    """
    return _status("VmHWM")


def forget_resident_peak() -> int:
    """Begin a new peak at the present resident set, and return its bytes (Linux: proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation was refused; torch's own class for it is a RuntimeError."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(REFUSED.search(str(error))))


def _status(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024
