"""How the training loop deals pairs to ranks and micro-steps: sealed pairs by their lengths, others by assumed ones."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from focalpo.training.packing import deal
from focalpo.training.steps import global_batch_at

BATCHES = 200  # global batches that are dealt, the first ones
SHORTEST = 4  # tokens; real prompts and answers have at least those of the template


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal lengths in tokens: means, standard deviations of the logarithms, and the limits of `data`.

    The answers of a pair are taken to be equally long, which spreads the lengths of pairs most.
    """

    prompt: float
    prompt_sigma: float
    answer: float
    answer_sigma: float
    max_prompt: int
    max_length: int

    def pairs(self, count: int, answers: int, seed: int = 0) -> np.ndarray:
        """Draw the tokens of `count` prompts with their answers: [count]."""
        rng = np.random.default_rng(seed)
        prompts = _log_normal(rng, self.prompt, self.prompt_sigma, count, self.max_prompt)
        return prompts + answers * _log_normal(rng, self.answer, self.answer_sigma, count, self.max_length - prompts)

    def longest(self, answers: int) -> int:
        """Tokens of the longest possible pair: its prompt stands once, so a short one leaves most to the answers."""
        return SHORTEST + answers * (self.max_length - SHORTEST)


@dataclass(frozen=True, slots=True)
class Dealt:
    """`steps`: share of global batches by micro-steps of a rank; `largest`: tokens of the largest micro-batch."""

    steps: dict[int, float]
    largest: int

    def __str__(self) -> str:
        return ", ".join(f"{steps} in {share:.1%}" for steps, share in self.steps.items())


@cache
def deal_sealed(trees: Path, seed: int, global_batch: int, ranks: int, budget: int) -> Dealt:
    """Deal the global batches of sealed pairs in the order of training.

    Raises:
        ValueError: when a global batch has more pairs than there are, or fewer than there are ranks.
    """
    table = pq.read_table(trees, columns=["prompt", "chosen", "rejected"])
    tokens = sum(pc.list_value_length(column).to_numpy() for column in table.columns)
    if len(tokens) < global_batch:
        raise ValueError(f"{len(tokens)} pairs do not fill one train.global_batch of {global_batch}; lower it")
    steps = min(BATCHES, len(tokens) // global_batch)
    orders = [global_batch_at(step, len(tokens), global_batch, seed) for step in range(steps)]
    return deal_all([tokens[order].tolist() for order in orders], ranks, budget)


@cache
def deal_assumed(lengths: Lengths, answers: int, global_batch: int, ranks: int, budget: int) -> Dealt:
    """Deal global batches of drawn lengths.

    Raises:
        ValueError: when a global batch has fewer pairs than there are ranks.
    """
    drawn = lengths.pairs(BATCHES * global_batch, answers).reshape(BATCHES, global_batch)
    return deal_all(drawn.tolist(), ranks, budget)


def deal_all(batches: Sequence[Sequence[int]], ranks: int, budget: int) -> Dealt:
    """Deal global batches, each given as the tokens of its pairs."""
    hands = [deal(batch, ranks, budget) for batch in batches]
    counts = Counter(len(hand[0]) for hand in hands)
    largest = max(
        sum(batch[item] for item in share)
        for batch, hand in zip(batches, hands, strict=True)
        for shares in hand
        for share in shares
    )
    return Dealt({steps: counts[steps] / len(hands) for steps in sorted(counts)}, largest)


def _log_normal(rng: np.random.Generator, mean: float, sigma: float, count: int, most: int | np.ndarray) -> np.ndarray:
    # A log-normal's mean is exp(mu + sigma^2 / 2).
    drawn = rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(drawn.round(), SHORTEST, most).astype(int)
