"""Compute log-probs of many trees without gradient, for the reference cache and the dynamics."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.training.packing import Batcher, MicroBatch
from focalpo.training.ranks import alive, device, gather, rank, world

# Trees dealt together: enough to balance the load, few enough to show progress and keep planning cheap.
BLOCK = 1024


@torch.no_grad()
def score(
    policy: Callable[[MicroBatch], Tensor],
    trees: Sequence[Tree],
    branches: tuple[str, ...],
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Return summed log-probs (nats) of every branch, in the order of `trees`, on every rank: branch -> [trees]."""
    rows: list[tuple[int, list[float]]] = []
    for first in range(0, len(trees), BLOCK):
        block = trees[first : first + BLOCK]
        # Under ZeRO-3 every rank must make the same number of calls, so a block smaller than the group is repeated.
        repeated = list(block) * -(-world() // len(block))
        batches = Batcher(micro_batch_tokens).micro_batches(repeated, branches, world(), rank())
        found = []
        for share, micro, _ in batches:
            alive()
            found.append((share, policy(micro.to(device()))))
        # Read when the block is done: to look at one micro-batch, a GPU would have to finish it before the next.
        for share, logps in found:
            rows += [(first + place % len(block), row) for place, row in zip(share, logps.tolist(), strict=True)]
        progress(min(first + BLOCK, len(trees)), len(trees))
    whole = dict(row for part in gather(rows) for row in part)
    return {branch: [whole[place][b] for place in range(len(trees))] for b, branch in enumerate(branches)}
