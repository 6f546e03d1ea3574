"""Useful floating-point operations of training on trees, and the rate of a matrix product on this machine.

Useful: each prompt once, real tokens only, nothing computed twice. As a share of the machine's rate, useful operations
fall with padding, repeated prompts, recomputation and everything that is not a matrix product.
"""

import time
from collections.abc import Sequence

import torch

from focalpo.data.trees import Tree
from focalpo.training.cost import Batch, Shape, training_operations

SIDE = {"cpu": 2048, "cuda": 8192}
TRIALS = 5


def useful_flops(shape: Shape, trees: Sequence[Tree]) -> float:
    """Useful operations of one forward and backward pass over the trees."""
    lengths = [(len(tree.prompt), [len(response) for response in tree.branches.values()]) for tree in trees]
    predicted = sum(sum(responses) for _, responses in lengths)
    tokens = predicted + sum(prompt for prompt, _ in lengths)
    seen = sum(_keys_seen(prompt, responses) for prompt, responses in lengths)
    return training_operations(shape, Batch(tokens, predicted), seen / tokens, activation_checkpointing=False)


def _keys_seen(prompt: int, responses: list[int]) -> int:
    """Count (query, key) pairs: causal within prompt and response, and every response token with every prompt token."""
    return prompt * (prompt + 1) // 2 + sum(r * prompt + r * (r + 1) // 2 for r in responses)


def matmul_rate(dtype: str, device: torch.device) -> float:
    """Operations per second of a large square product: the best of several trials, since it serves as a ceiling."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    a @ b
    best = float("inf")
    for _ in range(TRIALS):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
