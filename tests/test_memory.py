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


KEPT = """
import os, sys
from focalpo.stages import memory
memory.keep_freed()
memory.WORTH_FREEING = int(sys.argv[1])
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
class Pair:
    def __init__(self):
        self.other, self.block = self, b"x" * (1 << 20)
pairs = [Pair() for _ in range(256)]
before = resident()
del pairs
memory.free_kept()
print((before - resident()) >> 20)
"""


def freed(worth_freeing: int) -> int:
    """MiB that leave a process of 256 objects of 1 MiB, each of which refers to itself."""
    return int(subprocess.check_output([sys.executable, "-c", KEPT, str(worth_freeing)], cwd=ROOT, text=True))


def test_a_large_process_gives_back_what_a_stage_left() -> None:
    assert freed(worth_freeing=64 << 20) > 200
    assert freed(worth_freeing=1 << 40) < 10


def test_malloc_variables_set_by_the_user_are_respected() -> None:
    first, second = faults(MALLOC_MMAP_THRESHOLD_="65536")
    assert second > first / 2
