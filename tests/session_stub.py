"""A session whose workers only pretend to measure: python -m tests.session_stub OUT SECONDS NAME...

Each name is a task, which does what its second word says; see `Pretends`. No torch is imported.
"""

import os
import sys
import time
from pathlib import Path

from focalpo.speed import session
from focalpo.speed.tasks import MEMORY, MISSING, OK, OURS, TRL, Task

SIZES = ["8 pairs, 2 layers", "4 pairs, 2 layers", "2 pairs, 2 layers"]
LIMIT = 3.0


class Pretends:
    """A worker's object. A task's name is `bench/WHAT/contender/repeat`."""

    def __init__(self, names: list[str], log: Path) -> None:
        self.names, self.log = names, log

    def here(self) -> str:
        return "a machine of pretence"

    def plan(self) -> list[Task]:
        return [self._task(name) for name in self.names]

    def _task(self, name: str) -> Task:
        what, contender = name.split("/")[1:3]
        needs = ["a_package_that_is_missing"] if what == "needs" else []
        reference = {"beside": "b/reference/r/0", "unreferenced": "b/never/r/0"}.get(what)
        seconds = LIMIT if what == "slow" else 600.0
        return Task("peers", name, TRL if contender == "TRL" else OURS, SIZES, needs, reference, seconds)

    def run(self, name: str, place: int, logps: dict) -> tuple[str, str, dict]:
        what = name.split("/")[1]
        figures = {"pairs/s": 8.0 / (1 + place), "peak GB": 1.0, "of matmul": 0.5, "first loss": 0.7, "layers": 2}
        held = {"held_bytes": (2 << 30) * (what == "holds")}
        if what in ("slow", "hangs"):
            time.sleep(600)
        if what == "dies":
            self.log.write_text("the first words\nand the last words\n")
            os._exit(3)
        if what == "raises":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if what == "full" or (what == "fits" and place < 2):
            return MEMORY, "Tried to allocate 20.00 GiB; 130.1 GiB in use at the peak", held
        if what == "lacks":
            return MISSING, "a_module", held
        if what == "reference":
            return OK, "", held | {"logps": {"chosen": [1.5]}}
        if what == "beside":
            assert logps == {"chosen": [1.5]}
        return OK, "", figures | held | {"pid": os.getpid()}


if __name__ == "__main__":
    session.LEAST = session.CLOSING = 1.0  # the pretended machine may be busy, and a test's budget is short
    sys.exit(not session.main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:], Pretends))
