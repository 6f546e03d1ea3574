"""Compute numbers of many trees without gradient: log-probs for the reference cache, diagnostics for the dynamics."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.training.packing import Batcher, MicroBatch
from focalpo.training.ranks import alive, device, gather, rank, world

# Trees dealt together: enough to balance the load, few enough to show progress and keep planning cheap.
BLOCK = 1024


@torch.no_grad()
def measured(
    measure: Callable[[MicroBatch], Tensor],
    trees: Sequence[Tree],
    branches: tuple[str, ...],
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[float]]:
    """Return what `measure` makes of every tree, micro-batch [trees, columns]; in the order of `trees`, on every rank.

    The model must be called once for each micro-batch.
    """
    rows: list[tuple[int, list[float]]] = []
    for first in range(0, len(trees), BLOCK):
        block = trees[first : first + BLOCK]
        # Under ZeRO-3 every rank must make the same number of calls, so a block smaller than the group is repeated.
        repeated = list(block) * -(-world() // len(block))
        found = []
        for share, micro, _ in Batcher(micro_batch_tokens).micro_batches(repeated, branches, world(), rank()):
            alive()
            found.append((share, measure(micro.to(device()))))
        # Read when the block is done: to look at one micro-batch, a GPU would have to finish it before the next.
        for share, numbers in found:
            rows += [(first + place % len(block), row) for place, row in zip(share, numbers.tolist(), strict=True)]
        progress(min(first + BLOCK, len(trees)), len(trees))
    whole = dict(row for part in gather(rows) for row in part)
    return [whole[place] for place in range(len(trees))]


def score(
    policy: Callable[[MicroBatch], Tensor],
    trees: Sequence[Tree],
    branches: tuple[str, ...],
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Return summed log-probs (nats) of every branch, in the order of `trees`, on every rank: branch -> [trees]."""
    rows = measured(policy, trees, branches, micro_batch_tokens, progress)
    return {branch: [row[place] for row in rows] for place, branch in enumerate(branches)}
