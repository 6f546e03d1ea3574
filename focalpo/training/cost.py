"""What a stage will need, by arithmetic alone: memory of a rank by part, floating-point operations, disk, requests.

    shape of a model, sizes of a batch -> Memory (bytes of one rank), operations -> seconds, given a measured rate

Counted for Llama-like models: grouped-query attention, gated MLP, RMS norms. `recipes/calibrate.py` measures a step and
holds these figures against it.
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
        """Parameters of low-rank adapters: two matrices beside each of these linear modules of a block."""
        both_sides = {name: 2 * self.hidden for name in ("q_proj", "o_proj")}
        both_sides |= {name: self.hidden + self.kv for name in ("k_proj", "v_proj")}
        both_sides |= {name: self.hidden + self.intermediate for name in ("gate_proj", "up_proj", "down_proj")}
        return self.layers * rank * sum(both_sides[name] for name in targets)


@dataclass(frozen=True, slots=True)
class Batch:
    """The micro-batch that a rank holds at once: its tokens, and how many of them are predicted (response tokens)."""

    tokens: int
    predicted: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank at the peak of a step, by part."""

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
    """Memory of one rank at the peak of a training step, which is the backward pass of the head: all activations are
    still there and the gradients and Adam's moments of earlier steps stay. `adapters`: parameters beside the model's
    that are trained in their place; only they have gradients and moments."""
    size, count, trained = BYTES[dtype], shape.parameters + adapters, adapters or shape.parameters
    master = 4 * trained if dtype == "bfloat16" or zero_stage else 0  # fp32 weights beside those of the model
    # What ZeRO-3 has gathered while in use: the largest module, and the next one fetched ahead.
    gathered = 2 * size * shape.vocabulary * shape.hidden if zero_stage == 3 and ranks > 1 else 0
    return Memory(
        parameters=size * count / (ranks if zero_stage == 3 else 1) + gathered,
        gradients=size * trained / (ranks if zero_stage >= 2 else 1),
        optimizer=(master + 8 * trained) / (ranks if zero_stage else 1),
        activations=_activations(shape, batch, size, activation_checkpointing),
        head=_head(shape, batch, CHUNK_LOGITS[device]),
    )


def _activations(shape: Shape, batch: Batch, size: int, activation_checkpointing: bool) -> float:
    """What the layers keep for their backward pass.

    A token keeps in each layer 3 rows of `hidden` for either norm (its input, the normed row, the product with the
    weight), 3 around the attention (queries, its output twice: before and after joining the branches), keys and values,
    and 4 rows of `intermediate` (gate, its SiLU, up, their product).
    """
    layer = size * batch.tokens * (9 * shape.hidden + 2 * shape.kv + 4 * shape.intermediate)
    if not activation_checkpointing:
        return shape.layers * layer
    return shape.layers * size * batch.tokens * shape.hidden + layer


def _head(shape: Shape, batch: Batch, chunk: int) -> float:
    """Logits in fp32, which become their own gradient: a micro-batch's where they are kept for backward, else one
    chunk's; and for a chunk what logsumexp computes on the way, or the gradient in low precision, which is less."""
    logits = batch.predicted * shape.vocabulary
    of_chunk = batch.predicted * min(shape.vocabulary, words_at_once(batch.predicted, chunk))
    return 4 * (logits if logits <= KEPT_LOGITS else of_chunk) + 4 * of_chunk


def forward_operations(shape: Shape, batch: Batch, context: float) -> float:
    """Floating-point operations of one forward pass's matrix products, 2 for a multiply-add; `context`: tokens that a
    token attends to, on average."""
    attention = 4 * shape.layers * shape.hidden * context * batch.tokens
    return 2 * shape.matrices * batch.tokens + attention + 2 * shape.hidden * shape.vocabulary * batch.predicted


def training_operations(shape: Shape, batch: Batch, context: float, activation_checkpointing: bool) -> float:
    """Forward and backward (twice the forward), and the forward once more where activations are recomputed."""
    return (4 if activation_checkpointing else 3) * forward_operations(shape, batch, context)


def model_bytes(shape: Shape, dtype: str) -> int:
    """An exported model on the disk."""
    return BYTES[dtype] * shape.parameters


def checkpoint_bytes(shape: Shape) -> int:
    """A checkpoint on the disk: fp32 weights and two moments. While one is written the one before is still there."""
    return 12 * shape.parameters
