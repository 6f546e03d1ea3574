"""Switches that turn off the engine's speed-ups one by one.

A speed-up that is off is replaced by the plainest method that peers use, on the same engine, so that an ablation shows
the value of that one idea.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from focalpo.data.trees import Tree
from focalpo.training.logprobs import Asked, PackedPolicy, Scores
from focalpo.training.packing import Batcher, MicroBatch, pack, tree_cost

FILLER = 0
WHOLE = 1 << 62  # logits: one chunk for any micro-batch


@dataclass(frozen=True, slots=True)
class Switches:
    """Which speed-ups are on."""

    packing: bool = True
    share_prompts: bool = True
    cached_reference: bool = True
    chunked_head: bool = True
    balanced: bool = True


def batcher_of(switches: Switches, budget: int) -> Batcher:
    """The batcher without the speed-ups that are switched off."""
    batcher = Batcher(budget)
    if not switches.share_prompts:
        batcher = replace(batcher, pack=partial(pack, share_prompts=False))
    if not switches.packing:
        batcher = replace(batcher, pack=pack_padded)
    if not switches.balanced:
        batcher = replace(batcher, deal=deal_in_order)
    return batcher


def policy_of(model: PreTrainedModel, frozen: PreTrainedModel | None, switches: Switches) -> PackedPolicy:
    """The policy; with a frozen model, the policy runs it before each of its own forwards."""
    chunk = None if switches.chunked_head else WHOLE
    return PackedPolicy(model, chunk) if frozen is None else BesideReference(model, PackedPolicy(frozen), chunk)


class BesideReference(PackedPolicy):
    """A policy that also runs the frozen model in every forward, as when reference log-probs are not cached."""

    def __init__(self, model: PreTrainedModel, frozen: PackedPolicy, chunk_logits: int | None) -> None:
        super().__init__(model, chunk_logits)
        self.frozen = frozen.requires_grad_(False)

    def forward(self, batch: MicroBatch, asked: Asked = "sums") -> Scores:
        with torch.no_grad():
            self.frozen(batch)
        return super().forward(batch, asked)


def pack_padded(trees: Sequence[Tree], branches: tuple[str, ...]) -> MicroBatch:
    """Pack with every tree padded to the tokens of the longest one; no label is on the padding."""
    longest = max(tree_cost(tree, branches) for tree in trees)
    last = branches[-1]
    missing = [longest - tree_cost(tree, branches) for tree in trees]
    filled = [
        Tree(t.id, t.prompt, {**t.branches, last: np.pad(t.branches[last], (0, count), constant_values=FILLER)})
        for t, count in zip(trees, missing, strict=True)
    ]
    batch = pack(filled, branches)
    lengths = torch.tensor([len(tree.branches[branch]) for tree in trees for branch in branches])
    within = torch.cat([torch.arange(count) for count in torch.bincount(batch.owners).tolist()])
    real = within < lengths[batch.owners]
    return replace(batch, predictors=batch.predictors[real], labels=batch.labels[real], owners=batch.owners[real])


def deal_in_order(costs: Sequence[int], ranks: int, budget: int) -> list[list[list[int]]]:
    """Deal items in their order to ranks in turn; micro-batches are so small that even the longest items would fit."""
    assert len(costs) % ranks == 0
    each = max(1, budget // max(costs))
    hands = [list(range(rank, len(costs), ranks)) for rank in range(ranks)]
    return [[hand[first : first + each] for first in range(0, len(hand), each)] for hand in hands]
