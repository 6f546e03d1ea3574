"""How evenly the planner deals pairs, and what dealing costs, at more ranks than this machine has."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from focalpo.speed.switches import deal_in_order
from focalpo.training.packing import deal, imbalance

# The shortest possible step: a model of 8B parameters on H100s that do nothing but dense bf16 products.
PARAMETERS = 8e9
PEAK_RATE = 989e12


@dataclass(slots=True)
class Dealt:
    """How evenly `pairs` are dealt over `ranks`, means over global batches.

    `planner`, `in_order` and `bound` are the tokens that ranks wait for over those they compute (1 is even): for the
    planner, for dealing in order, and at best, since a pair is never split. `share_of_step` is planning's share of the
    shortest possible step of an 8B model on these tokens with one H100 per rank.
    """

    ranks: int
    pairs: int
    planner: float
    in_order: float
    bound: float
    share_of_step: float


def dealt(batches: Sequence[Sequence[int]], ranks: int, budget: int) -> Dealt:
    """Deal global batches, each given as the token counts of its pairs."""
    started = time.perf_counter()
    hands = [deal(batch, ranks, budget) for batch in batches]
    seconds = time.perf_counter() - started
    shortest = sum(6 * PARAMETERS * sum(batch) for batch in batches) / (ranks * PEAK_RATE)
    return Dealt(
        ranks,
        len(batches[0]),
        planner=fmean(map(imbalance, batches, hands)),
        in_order=fmean(imbalance(batch, deal_in_order(batch, ranks, budget)) for batch in batches),
        bound=fmean(max(1.0, max(batch) * ranks / sum(batch)) for batch in batches),
        share_of_step=seconds / shortest,
    )
