"""How even the planner deals pairs, and what dealing costs, at numbers of ranks that this machine does not have."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from focalpo.speed.switches import deal_in_order
from focalpo.training.packing import deal

# The shortest that a step could last: a model of 8B parameters on H100s that do nothing but dense bf16 products.
PARAMETERS = 8e9
PEAK_RATE = 989e12


@dataclass(slots=True)
class Dealt:
    """`pairs` over `ranks`, means over global batches: the tokens that ranks wait for over those they compute (1 is
    even), for the planner, for dealing in order, and at best, as a pair is never split; and planning's share of the
    shortest step that an 8B model could make of these tokens on so many H100s."""

    ranks: int
    pairs: int
    planner: float
    in_order: float
    bound: float
    share_of_step: float


def dealt(batches: Sequence[Sequence[int]], ranks: int, budget: int) -> Dealt:
    """Deal global batches, given as the pairs' tokens."""
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


def imbalance(costs: Sequence[int], hands: Sequence[Sequence[Sequence[int]]]) -> float:
    """The largest load of each micro-step, summed, over the mean load of a rank: 1 when no rank waits for another."""
    loads = [[sum(costs[item] for item in share) for share in hand] for hand in hands]
    return sum(max(step) for step in zip(*loads, strict=True)) * len(hands) / sum(costs)
