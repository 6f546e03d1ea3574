"""Estimate what a stage needs, by arithmetic alone: floating-point operations and disk; memory is in `memory`.

    shape of a model, sizes of a batch -> operations -> seconds, given a measured rate

Counted for Llama-like models: grouped-query attention, gated MLP, RMS norms. `recipes/calibrate.py` measures a step and
compares it with these estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BYTES = {"float32": 4, "bfloat16": 2}
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a weight in 4 bit: each block of 64 has a scale in 8 bit, each block of 256 scales one in fp32."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a model; `tied`: the head is the embedding."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def kv(self) -> int:
        """Width of the keys (and of the values)."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def matrices(self) -> int:
        """Parameters of the layers' matrix products."""
        attention = 2 * self.hidden * (self.hidden + self.kv)  # q and o, k and v
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def body(self) -> int:
        """Parameters of the layers and of their norms, without embedding and head."""
        return self.matrices + (2 * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        return self.body + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def adapters(self, rank: int, targets: Sequence[str]) -> int:
        """Parameters of low-rank adapters: two matrices for each of these linear modules in every layer."""
        both_sides = {name: 2 * self.hidden for name in ("q_proj", "o_proj")}
        both_sides |= {name: self.hidden + self.kv for name in ("k_proj", "v_proj")}
        both_sides |= {name: self.hidden + self.intermediate for name in ("gate_proj", "up_proj", "down_proj")}
        return self.layers * rank * sum(both_sides[name] for name in targets)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of one rank: its tokens, and how many of them are predicted (response tokens)."""

    tokens: int
    predicted: int


def forward_operations(shape: Shape, batch: Batch, context: float) -> float:
    """Count the floating-point operations of a forward pass's matrix products, 2 per multiply-add.

    Args:
        context: average number of tokens that a token attends to.
    """
    attention = 4 * shape.layers * shape.hidden * context * batch.tokens
    return 2 * shape.matrices * batch.tokens + attention + 2 * shape.hidden * shape.vocabulary * batch.predicted


def training_operations(shape: Shape, batch: Batch, context: float, activation_checkpointing: bool) -> float:
    """Count forward and backward (twice the forward), and another forward where activations are recomputed."""
    return (4 if activation_checkpointing else 3) * forward_operations(shape, batch, context)


def model_bytes(shape: Shape, dtype: str) -> int:
    """Size of an exported model on disk."""
    return BYTES[dtype] * shape.parameters


def quantised_bytes(shape: Shape, dtype: str) -> float:
    """Size of a model whose layers have their matrices in 4 bit, in memory."""
    return NF4 * shape.matrices + BYTES[dtype] * (shape.parameters - shape.matrices)


def checkpoint_bytes(shape: Shape) -> int:
    """Size of a checkpoint on disk: fp32 weights and two moments. During a save, the previous one still exists."""
    return 12 * shape.parameters
