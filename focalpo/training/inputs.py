"""What an objective receives: the log-probs of a micro-batch, and beforehand what it must know of the global batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.training.objective import BatchLevel, BatchLogps, Logps, Objective, TokenLevel, TokenLogps
from focalpo.training.packing import Batcher, MicroBatch
from focalpo.training.ranks import device, rank, sent, sum_over_ranks, world
from focalpo.training.unpaired import is_unpaired, settled


@dataclass(frozen=True, slots=True)
class Examples:
    """Training data: trees, their reference log-probs by branch in the same order (empty when the objective needs
    none), and the trees of the mismatched branch for objectives that estimate a KL."""

    trees: Sequence[Tree]
    reference: dict[str, list[float]]
    mismatched: Sequence[Tree]


class Scored(NamedTuple):
    """A micro-batch's log-probs [trees, branches], and by branch those of its tokens for losses that need them."""

    sums: Tensor
    tokens: dict[str, Tensor]
    collision: dict[str, Tensor]


def scored_by(engine, objective: Objective, micro: MicroBatch) -> Scored:
    """Call the engine on a micro-batch, for the log-prob of each token only if the loss is of that kind."""
    if not isinstance(objective, TokenLevel):
        return Scored(engine(micro), {}, {})
    sums, *each = engine(micro, asked="tokens")
    # Cut by lengths that the host knows: a mask would have to be counted on the device.
    responses = [values.split(micro.layout.responses) for values in each]
    count = len(micro.branches)
    tokens, collision = (
        {branch: torch.cat(parts[place::count]) for place, branch in enumerate(micro.branches)} for parts in responses
    )
    return Scored(sums, tokens, collision)


def logps_of(
    objective: Objective, scored: Scored, items: list[int], examples: Examples, beforehand: dict[str, Tensor]
) -> Logps:
    """The record that a loss of this kind is called with, of the micro-batch that holds these items."""
    policy = dict(zip(objective.branches, scored.sums.T, strict=True))
    length = _lengths(objective.branches, items, examples.trees)
    if is_unpaired([examples.trees[item] for item in items]):
        policy = {branch: settled(branch, logps, length[branch]) for branch, logps in policy.items()}
    reference = _reference(objective.branches, items, examples.reference)
    if isinstance(objective, TokenLevel):
        reference |= _reference(objective.reference_branches, items, examples.reference)
        return TokenLogps(policy, reference, length, beforehand, scored.tokens, scored.collision)
    if isinstance(objective, BatchLevel):
        return BatchLogps(policy, reference, length, {}, beforehand)
    return Logps(policy, reference, length, beforehand)


def of_global_batch(
    engine, objective: Objective, items: list[int], examples: Examples, batcher: Batcher
) -> dict[str, Tensor]:
    """What the objective needs of the global batch beforehand: the means of its terms (KTO's KL, SFT's length), or the
    terms of every pair, in the order of `items`, for a loss of that kind."""
    if not objective.batch_branches:  # only lengths are needed, which every rank knows
        terms = objective.batch_terms(Logps({}, {}, _lengths(objective.branches, items, examples.trees), {}))
        return {name: value.mean() for name, value in terms.items()}
    found: dict[str, Tensor] = {}
    for share, terms in _terms(engine, objective, items, examples, batcher):
        for name, value in terms.items():
            if isinstance(objective, BatchLevel):
                found.setdefault(name, value.new_zeros(len(items)))[share] = value  # 0 where other ranks have theirs
            else:
                found[name] = found.get(name, 0.0) + value.sum()
    whole = {name: sum_over_ranks(value) for name, value in found.items()}
    return whole if isinstance(objective, BatchLevel) else {name: value / len(items) for name, value in whole.items()}


def _terms(
    engine, objective: Objective, items: list[int], examples: Examples, batcher: Batcher
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """This rank's share of the global batch, one micro-batch at a time: places in `items`, and the terms there."""
    branches = objective.batch_branches
    sources = examples.mismatched if "mismatched" in branches else examples.trees
    for share, micro, _ in batcher.micro_batches([sources[item] for item in items], branches, world(), rank()):
        with torch.no_grad():
            logps = engine(micro.to(device()))
        there = [items[place] for place in share]
        policy = dict(zip(branches, logps.T, strict=True))
        reference = _reference(branches, there, examples.reference)
        yield share, objective.batch_terms(Logps(policy, reference, _lengths(branches, there, sources), {}))


def _reference(branches, items, reference: dict[str, list[float]]) -> dict[str, Tensor]:
    return {
        branch: sent(torch.tensor([reference[branch][item] for item in items]), device())
        for branch in branches
        if branch in reference
    }


def _lengths(branches, items, trees) -> dict[str, Tensor]:
    return {
        branch: sent(torch.tensor([float(len(trees[item].branches[branch])) for item in items]), device())
        for branch in branches
    }
