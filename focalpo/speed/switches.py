"""Switches that turn off the engine's speed-ups one by one.

A speed-up that is off is replaced by the plainest method that peers use, on the same engine, so that an ablation shows
the value of that one idea.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from focalpo.data.trees import Tree
from focalpo.training.attention import BLOCKS, FLEX, NAME
from focalpo.training.kernels import flash_attention_3
from focalpo.training.logprobs import Asked, PackedPolicy, Scores
from focalpo.training.packing import Batcher, MicroBatch, pack, tree_cost

FILLER = 0
WHOLE = 1 << 62  # logits: one chunk for any micro-batch
ATTENTION = {"": NAME, "blocks": BLOCKS, "flex": FLEX, "flash_3": NAME}
"""What transformers calls each kernel of attention; the first is the engine's own choice."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Which speed-ups are on, and the kernel of attention if it is not the engine's choice, one of ATTENTION."""

    packing: bool = True
    share_prompts: bool = True
    cached_reference: bool = True
    chunked_head: bool = True
    balanced: bool = True
    attention: str = ""


def attention_of(switches: Switches) -> contextlib.AbstractContextManager:
    """While open, torch has the kernel that the switches name."""
    return flash_attention_3() if switches.attention == "flash_3" else contextlib.nullcontext()


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
    chunk, attention = None if switches.chunked_head else WHOLE, ATTENTION[switches.attention]
    if frozen is None:
        return PackedPolicy(model, chunk, attention)
    return BesideReference(model, PackedPolicy(frozen, attention=attention), chunk, attention)


class BesideReference(PackedPolicy):
    """A policy that also runs the frozen model in every forward, as when reference log-probs are not cached."""

    def __init__(self, model: PreTrainedModel, frozen: PackedPolicy, chunk_logits: int | None, attention: str) -> None:
        super().__init__(model, chunk_logits, attention)
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
