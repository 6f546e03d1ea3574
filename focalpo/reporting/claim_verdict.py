"""A verdict on a claim: one of four words, why, and where that can be looked up."""

import math
from dataclasses import dataclass

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
