"""Log-probs of many trees without gradient: the reference cache and the dynamics read them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from focalpo.data.tokens import Tree
from focalpo.training.packing import MicroBatch, deal, pack, tree_cost
from focalpo.training.ranks import alive, device, gather, rank, world

# Trees dealt together: enough to balance, few enough that progress is seen and plans stay cheap.
BLOCK = 1024


@torch.no_grad()
def score(
    policy: Callable[[MicroBatch], Tensor],
    trees: Sequence[Tree],
    branches: tuple[str, ...],
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Summed log-probs (nats) of every branch, in the order of `trees`, on every rank: branch -> [trees]."""
    rows: list[tuple[int, list[float]]] = []
    for first in range(0, len(trees), BLOCK):
        block = trees[first : first + BLOCK]
        costs = [tree_cost(tree, branches) for tree in block]
        # Every rank must make the same number of calls under ZeRO-3, so a block smaller than the group is repeated.
        items = list(range(len(block))) * -(-world() // len(block))
        for chosen in deal([costs[item] for item in items], world(), micro_batch_tokens)[rank()]:
            alive()
            micro = pack([block[items[place]] for place in chosen], branches).to(device())
            logps = policy(micro).tolist()
            rows += [(first + items[place], row) for place, row in zip(chosen, logps, strict=True)]
        progress(min(first + BLOCK, len(trees)), len(trees))
    found = dict(row for part in gather(rows) for row in part)
    return {branch: [found[place][b] for place in range(len(trees))] for b, branch in enumerate(branches)}
