"""Estimate what a stage needs, by arithmetic alone: memory of a rank by part, floating-point operations, disk.

    shape of a model, sizes of a batch -> Memory (bytes of one rank), operations -> seconds, given a measured rate

Counted for Llama-like models: grouped-query attention, gated MLP, RMS norms. `recipes/calibrate.py` measures a step and
compares it with these estimates.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from focalpo.training.settings import CHUNK_LOGITS, KEPT_LOGITS, words_at_once

BYTES = {"float32": 4, "bfloat16": 2}


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


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of one rank in a step, bytes, by part."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        return sum(astuple(self))


def training_memory(
    shape: Shape,
    batch: Batch,
    dtype: str,
    zero_stage: int,
    ranks: int,
    activation_checkpointing: bool,
    device: str,
    adapters: int = 0,
) -> Memory:
    """Estimate the memory of one rank at the peak of a training step.

    The peak is in the backward pass of the head: all activations are still allocated, as are the gradients and Adam's
    moments of earlier steps.

    Args:
        adapters: parameters added to the model and trained instead of its own; only they have gradients and moments.
    """
    size, count, trained = BYTES[dtype], shape.parameters + adapters, adapters or shape.parameters
    master = 4 * trained if dtype == "bfloat16" or zero_stage else 0  # fp32 weights in addition to the model's
    # ZeRO-3 gathers modules while they are in use: at most the largest one and the prefetched next one.
    gathered = 2 * size * shape.vocabulary * shape.hidden if zero_stage == 3 and ranks > 1 else 0
    return Memory(
        parameters=size * count / (ranks if zero_stage == 3 else 1) + gathered,
        gradients=size * trained / (ranks if zero_stage >= 2 else 1),
        optimizer=(master + 8 * trained) / (ranks if zero_stage else 1),
        activations=_activations(shape, batch, size, activation_checkpointing),
        head=_head(shape, batch, CHUNK_LOGITS[device]),
    )


def _activations(shape: Shape, batch: Batch, size: int, activation_checkpointing: bool) -> float:
    """Bytes that the layers keep for their backward pass.

    Each token keeps in each layer 3 rows of `hidden` per norm (its input, the normed row, the product with the
    weight), 3 around the attention (queries, its output twice: before and after joining the branches), keys and values,
    and 4 rows of `intermediate` (gate, its SiLU, up, their product).
    """
    layer = size * batch.tokens * (9 * shape.hidden + 2 * shape.kv + 4 * shape.intermediate)
    if not activation_checkpointing:
        return shape.layers * layer
    return shape.layers * size * batch.tokens * shape.hidden + layer


def _head(shape: Shape, batch: Batch, chunk: int) -> float:
    """Bytes of the fp32 logits, overwritten by their gradient: all of a micro-batch if they are kept for backward, else
    one chunk. One more chunk holds logsumexp's intermediates; the gradient in low precision needs less."""
    logits = batch.predicted * shape.vocabulary
    of_chunk = batch.predicted * min(shape.vocabulary, words_at_once(batch.predicted, chunk))
    return 4 * (logits if logits <= KEPT_LOGITS else of_chunk) + 4 * of_chunk


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


def checkpoint_bytes(shape: Shape) -> int:
    """Size of a checkpoint on disk: fp32 weights and two moments. During a save, the previous one still exists."""
    return 12 * shape.parameters
