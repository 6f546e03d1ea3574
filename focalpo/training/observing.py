"""Observe a policy on pairs in one forward pass: log-probs, entropies and CHES scores of each pair."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.stages.records import PairState
from focalpo.training.packing import MicroBatch
from focalpo.training.scoring import measured

BRANCHES = ("chosen", "rejected")


def observed(
    engine: Callable[..., tuple[Tensor, Tensor, Tensor]],
    trees: Sequence[Tree],
    micro_batch_tokens: int,
    step: int,
    split: str,
    mislabelled: Mapping[str, bool | None],
) -> list[PairState]:
    """The policy's state of every pair, in the order of `trees`; every rank must call it."""
    rows = measured(partial(_columns, engine), trees, BRANCHES, micro_batch_tokens)
    states = []
    for tree, (chosen, rejected, of_chosen, of_rejected, *similar) in zip(trees, rows, strict=True):
        lengths = len(tree.branches["chosen"]), len(tree.branches["rejected"])
        scores = similar if all(lengths) else [None, None]  # an answer without a pair has none
        known = mislabelled.get(tree.id)
        states.append(
            PairState(step, split, tree.id, chosen, rejected, *lengths, known, of_chosen, of_rejected, *scores)
        )
    return states


def _columns(engine: Callable[..., tuple[Tensor, Tensor, Tensor]], micro: MicroBatch) -> Tensor:
    """log-probs, entropies and CHES scores of a micro-batch of pairs: [trees, 6]."""
    logps, entropies, states = engine(micro, asked="diagnostics")
    lengths = torch.bincount(micro.owners, minlength=logps.numel()).view(*logps.shape, 1)
    scores = [ches(*each.unbind(1)) for each in (states.double(), states.double() / lengths)]
    return torch.cat([logps.double(), entropies.double(), torch.stack(scores, 1)], 1)


def ches(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The centered hidden embedding similarity, <chosen, rejected> - |chosen|^2, of sums of the last hidden states that
    predict a response's tokens: [pairs, hidden] -> [pairs]. Of their means it is the length-normalised score.

    A higher one predicts a larger loss of likelihood of the chosen response (Razin et al. 2024, arXiv 2410.08847,
    Definition 2; read in their code).
    """
    return (chosen * rejected).sum(-1) - chosen.square().sum(-1)
