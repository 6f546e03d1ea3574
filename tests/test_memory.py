import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAULTS = """
import resource
from focalpo.processes.memory import keep_freed
keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def faults(**environment: str) -> list[int]:
    """Pages that the system had to give for 16 MiB, and for as much again after they were freed."""
    found = subprocess.check_output([sys.executable, "-c", FAULTS], cwd=ROOT, env=os.environ | environment, text=True)
    return [int(count) for count in found.split()]


def test_what_is_freed_is_kept_for_the_next_block() -> None:
    first, second = faults()
    assert second < first / 10


def test_malloc_variables_of_the_users_own_are_left_alone() -> None:
    first, second = faults(MALLOC_MMAP_THRESHOLD_="65536")
    assert second > first / 2
