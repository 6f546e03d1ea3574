"""The CPU cores that this process may use, which a scheduler or `taskset` may have limited."""

import os


def cores() -> int:
    """Cores that this process may run on; not those of the machine, of which it may have been given a few."""
    return len(os.sched_getaffinity(0))


def cores_each(processes: int) -> int:
    """This process's cores divided among some processes, at least 1."""
    return max(1, cores() // processes)
