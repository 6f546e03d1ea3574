"""Estimate the peak memory of one rank in a training step, by part: three moments, of which the largest is the peak.

    backward     the head's: all activations are allocated, and the gradients of earlier micro-steps
    reduction    a bucket of gradients is copied, averaged over ranks and added to the fp32 sums
    step         DeepSpeed's copies of gradients for their norm and for Adam; no activations

What each ZeRO stage allocates was read in DeepSpeed 0.19.8 (runtime: bf16_optimizer.py, zero/stage_1_and_2.py,
zero/stage3.py) and measured (tests/test_training_memory.py).
"""

from dataclasses import dataclass, fields

from focalpo.training.cost import BYTES, Batch, Shape, quantised_bytes
from focalpo.training.settings import CHUNK_LOGITS, KEPT_LOGITS, OPTIMIZERS, words_at_once

# DeepSpeed's defaults, in elements; a test compares them with the installed version.
REDUCE_BUCKET, SUB_GROUP, PREFETCH, REUSE_DISTANCE = 500_000_000, 1_000_000_000, 50_000_000, 1_000_000_000
SUM = 4  # bytes of a gradient summed over micro-steps: fp32, see `deepspeed_config`
NORM = 8  # bytes of a gradient while its norm is computed: fp64
AT_ONCE = 250_000_000  # elements whose norm is computed at once while gradients go to the host (zero/stage3.py)
# Bytes of a parameter's two moments; in 8 bit each block of 256 has a scale in fp32.
MOMENTS = dict(zip(OPTIMIZERS, (8.0, 2 * (1 + 4 / 256)), strict=True))


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory at one moment, bytes; `buffers` are DeepSpeed's own: buckets, gathered weights, copies of gradients."""

    moment: str
    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    head: float = 0.0
    buffers: float = 0.0

    @property
    def parts(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "moment"}

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """The moments at which the memory of one rank peaks, and the bytes that it holds in the host's memory instead."""

    moments: tuple[Peak, ...]
    host: float = 0.0

    @property
    def peak(self) -> Peak:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def total(self) -> float:
        return self.peak.total


def weights_only(size: float) -> Memory:
    """The memory of a forward pass, as far as it is estimated: the weights."""
    return Memory((Peak("forward", parameters=size),))


@dataclass(frozen=True, slots=True)
class Sharding:
    """What one rank holds of `count` parameters, of which `trained` have gradients and moments.

    `stage` is the one that runs: bf16 without ZeRO runs as stage 1. `largest`: elements of the largest trained matrix.
    `moments`: bytes of a parameter's moments. `offload`: whether the optimizer's states are in the host's memory.
    """

    stage: int
    size: int
    count: int
    trained: int
    largest: int
    ranks: int
    device: str
    moments: float
    offload: bool

    @property
    def owned(self) -> float:
        """Parameters whose fp32 weights and moments are here."""
        return self.trained / (self.ranks if self.stage else 1)

    @property
    def reduced(self) -> int:
        """Gradients that are reduced at once."""
        return min(self.trained, max(REDUCE_BUCKET, self.largest))

    @property
    def whole(self) -> bool:
        """Whether all gradients are reduced at once, when activations are freed and gathered weights released."""
        return self.trained <= REDUCE_BUCKET or self.bf16_optimizer or not self.stage

    @property
    def bf16_optimizer(self) -> bool:
        """DeepSpeed's optimizer for stage 1 with fp32 sums, which holds all sums on every rank."""
        return self.stage == 1 and self.size == 2

    @property
    def low_precision(self) -> bool:
        return self.size < SUM

    def parameters(self) -> float:
        return self.size * self.count / (self.ranks if self.stage == 3 else 1)

    def optimizer(self) -> float:
        """Adam's two moments, and fp32 weights in addition to the model's."""
        return 0 if self.offload else (self.moments + (4 if self.stage else 0)) * self.owned

    def host(self) -> float:
        """fp32 weights, moments, gradients, and their sums over micro-steps."""
        return (4 + self.moments + 2 * SUM) * self.owned if self.offload else 0

    def gradients(self) -> float:
        """Gradients of earlier micro-steps."""
        if self.offload:
            return 0
        if self.bf16_optimizer:
            return (SUM + self.size) * self.trained  # and those of the micro-step: zeroed, not freed
        return SUM * self.owned

    def gathered(self, head: int) -> float:
        """Weights that ZeRO-3 has gathered: those that are used again soon, the next ones, and a copy of the last."""
        if self.stage != 3 or self.ranks == 1:
            return 0
        kept = min(self.count, max(REUSE_DISTANCE // 2, head) + PREFETCH)
        return self.size * (kept + min(self.count, head + PREFETCH))

    def bucket(self) -> float:
        """The buffer into which gradients are copied; malloc takes memory only for the part that is written."""
        if not self.stage or self.bf16_optimizer:
            return 0
        return self.size * (REDUCE_BUCKET if self.device == "cuda" else min(REDUCE_BUCKET, self.trained))

    def reduction(self) -> float:
        """Copies while a bucket is reduced."""
        if self.stage == 3:  # all ranks' parts in a row, and the own part in fp32
            own = SUM * self.reduced / self.ranks if self.low_precision else 0
            own += self.moved() if self.offload else 0
            # Gloo copies its input; NCCL does not.
            return self.size * self.reduced + (max(own, self.size * self.reduced) if self.device == "cpu" else own)
        if self.bf16_optimizer:  # in place
            return 0
        if self.stage and self.low_precision:  # the bucket's pieces in a row, and one of them in fp32
            return self.size * self.reduced + SUM * self.largest
        flat = SUM * self.reduced if self.ranks > 1 else 0
        return flat + (SUM * self.owned if self.stage else 0)  # of this micro-step, before it is added

    def moved(self) -> float:
        """Copies of a matrix's own part on its way to the host: the sum, back from there, and in fp64 for the norm."""
        part = self.largest / self.ranks
        return (SUM * part if self.device == "cuda" else 0) + NORM * min(AT_ONCE, part)

    def step(self) -> float:
        """Copies of gradients in the optimizer step: in fp64 for the norm, flattened for Adam."""
        if self.offload:  # done while they went to the host
            return 0
        if not self.stage or self.bf16_optimizer:
            return 0
        if self.stage == 3:  # one sub-group after another; it is closed by the matrix that fills it
            part = self.largest / self.ranks
            return max(SUM * min(self.owned, SUB_GROUP + part), NORM * part)
        return max(0 if self.low_precision else SUM * self.owned, NORM * min(self.largest, self.owned))


def training_memory(
    shape: Shape,
    batch: Batch,
    dtype: str,
    zero_stage: int,
    ranks: int,
    activation_checkpointing: bool,
    device: str,
    adapters: int = 0,
    quantised: bool = False,
    optimizer: str = OPTIMIZERS[0],
    offload: bool = False,
) -> Memory:
    """Estimate the memory of one rank in a step of more than one micro-step, at each moment that may be the peak.

    Args:
        adapters: parameters added to the model and trained instead of its own; only they have gradients and moments.
        quantised: whether the layers' matrices are in 4 bit; a product dequantises one at a time.
        optimizer, offload: `train.optimizer` and `train.offload_optimizer`.
    """
    size, head, trained = BYTES[dtype], shape.vocabulary * shape.hidden, adapters or shape.parameters
    largest = min(trained, max(head, shape.hidden * shape.intermediate))
    stage = zero_stage or int(dtype == "bfloat16")
    count, moments = shape.parameters + adapters, MOMENTS[optimizer]
    held = Sharding(stage, size, count, trained, largest, ranks, device, moments, offload)
    parameters = quantised_bytes(shape, dtype) + size * adapters if quantised else held.parameters()
    one_matrix = size * shape.hidden * shape.intermediate if quantised else 0
    states = {"parameters": parameters, "gradients": held.gradients(), "optimizer": held.optimizer()}
    activations = _activations(shape, batch, size, activation_checkpointing, device)
    logits = _head(shape, batch, CHUNK_LOGITS[device]) + (0 if adapters else size * head)
    gathered, reduced = held.gathered(head), held.bucket() + held.reduction()
    copies = held.bucket() + gathered + one_matrix
    if held.whole:
        reduction = Peak("reduction", **states, buffers=reduced)
    else:
        reduction = Peak("reduction", **states, activations=activations, buffers=reduced + gathered)
    return Memory(
        (
            Peak("backward", **states, activations=activations, head=logits, buffers=copies),
            reduction,
            Peak("step", **states, buffers=held.step() + (held.bucket() if stage == 3 else 0)),
        ),
        held.host(),
    )


def _activations(shape: Shape, batch: Batch, size: int, activation_checkpointing: bool, device: str) -> float:
    """Bytes that the layers keep for their backward pass.

    Each token keeps in each layer 3 rows of `hidden` per norm (its input, the normed row, the product with the
    weight), 3 around the attention (queries, its output twice: before and after joining the branches), keys and values,
    and 4 rows of `intermediate` (gate, its SiLU, up, their product). The input of a norm is kept in fp32; so are, on a
    CPU, queries, keys, values and the output of `attention`.
    """
    in_fp32 = 2 * shape.hidden + (2 * (shape.hidden + shape.kv) if device == "cpu" else 0)
    kept = size * (9 * shape.hidden + 2 * shape.kv + 4 * shape.intermediate) + (4 - size) * in_fp32
    layer = batch.tokens * kept
    if not activation_checkpointing:
        return shape.layers * layer
    return shape.layers * size * batch.tokens * shape.hidden + layer


def _head(shape: Shape, batch: Batch, chunk: int) -> float:
    """Bytes of the fp32 logits, overwritten by their gradient: all of a micro-batch if they are kept for backward, else
    one chunk. One more chunk holds logsumexp's intermediates; the gradient in low precision needs less."""
    logits = batch.predicted * shape.vocabulary
    of_chunk = batch.predicted * min(shape.vocabulary, words_at_once(batch.predicted, chunk))
    return 4 * (logits if logits <= KEPT_LOGITS else of_chunk) + 4 * of_chunk
