"""A verdict on a claim: one of four words, why, and where that can be looked up."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from focalpo.reporting.cells import Results
from focalpo.reporting.finding import short_label

SUPPORTED, REFUTED, OPEN, UNTESTED = "supported", "not supported", "inconclusive", "not tested"
ALGEBRA = "algebra"
"""The source of a verdict that follows from the loss and needs no run."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word, the reason in one sentence, and its source, a file of docs/, ALGEBRA or nothing.

    `detectable` is the smallest effect that would have shown, in the unit `unit`, of an inconclusive verdict.
    """

    word: str
    why: str
    detectable: float = math.nan
    source: str = ""
    unit: str = "points"

    @property
    def short(self) -> str:
        """The word, with what would have shown, or that no run was needed."""
        if self.word == OPEN and not math.isnan(self.detectable):
            return f"{self.word}, {self.detectable:.1f} {self.unit} would have shown"
        return f"{self.word}, by algebra" if self.source == ALGEBRA else self.word


def unmeasured(results: Results, measured: Collection[str]) -> str:
    """The settings of a table that lack the number, as the end of a reason; with them a claim about all is open."""
    lacking = [short_label(results, setting) for setting in results.rows if setting not in measured]
    return f"; not measured: {', '.join(lacking)}" if lacking else ""
