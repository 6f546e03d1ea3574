"""Useful floating-point operations of training on trees, and how many a matrix product reaches on this machine.

Useful: each prompt once, real tokens only, nothing computed a second time. A share of the machine's rate made of them
falls with padding, repeated prompts, recomputation and everything that is not a matrix product.
"""

import time
from collections.abc import Sequence

import torch

from focalpo.data.tokens import Tree
from focalpo.speed.settings import Shape
from focalpo.training.model import DTYPES

SIDE = {"cpu": 2048, "cuda": 8192}
TRIALS = 5


def useful_flops(shape: Shape, trees: Sequence[Tree]) -> float:
    """Operations of one forward and backward pass: 2 per multiply-add, backward twice the forward."""
    return 6.0 * sum(_multiply_adds(shape, len(t.prompt), [len(r) for r in t.branches.values()]) for t in trees)


def _multiply_adds(shape: Shape, prompt: int, responses: list[int]) -> int:
    head_size = shape.hidden_size // shape.num_attention_heads
    attention = shape.hidden_size * head_size * 2 * (shape.num_attention_heads + shape.num_key_value_heads)
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size
    tokens = prompt + sum(responses)
    # Pairs (query, key): causal within prompt and response, and every response token with every prompt token.
    seen = prompt * (prompt + 1) // 2 + sum(r * prompt + r * (r + 1) // 2 for r in responses)
    body = shape.num_hidden_layers * (layer * tokens + 2 * shape.hidden_size * seen)
    return body + shape.hidden_size * shape.vocab_size * sum(responses)


def matmul_rate(dtype: str, device: torch.device) -> float:
    """Operations per second of a large square product: the best of several trials, for a ceiling is asked for."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=DTYPES[dtype]) for _ in range(2))
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
