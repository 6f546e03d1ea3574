import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAULTS = """
import resource
from focalpo.stages.memory import keep_freed
keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def faults(**environment: str) -> list[int]:
    """Page faults of a first 16 MiB block, and of a second one after the first was freed."""
    output = subprocess.check_output([sys.executable, "-c", FAULTS], cwd=ROOT, env=os.environ | environment, text=True)
    return [int(count) for count in output.split()]


def test_freed_memory_is_reused_for_the_next_block() -> None:
    first, second = faults()
    assert second < first / 10


def test_malloc_variables_set_by_the_user_are_respected() -> None:
    first, second = faults(MALLOC_MMAP_THRESHOLD_="65536")
    assert second > first / 2
