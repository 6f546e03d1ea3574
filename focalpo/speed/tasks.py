"""What the session on a GPU does one after another, and what came of it, in types that every Python can read."""

from dataclasses import dataclass, field

OURS, TRL = "ours", "trl"
"""The two worker processes: TRL's must not see that ours has joined a process group."""
OK, FAILED, MEMORY, MISSING = "ok", "failed", "out of memory", "missing"
TIMED_OUT, LEFT_OUT = "timed out", "left out"


@dataclass(frozen=True, slots=True)
class Task:
    """One row to be: `sizes` to try in turn until one fits, packages that it `needs`, the task that computes its
    `reference`, and the most seconds that it may take."""

    part: str
    name: str
    worker: str
    sizes: list[str]
    needs: list[str]
    reference: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a task at one size: `why` when not OK, and its `figures` by name."""

    part: str
    name: str
    size: str
    result: str
    why: str = ""
    seconds: float = 0.0
    figures: dict = field(default_factory=dict)
