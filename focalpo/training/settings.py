"""Training settings of a configuration, and constants that the cost estimates share with the training loop.

Classes are not frozen, since they are part of the schema. Imports no torch: every command reads a configuration, few
train.
"""

from dataclasses import dataclass
from typing import Annotated

from focalpo.stages import ranges

KERNELS = ("plain", "compiled", "liger")
Kernels = Annotated[str, ", ".join(KERNELS), lambda x: x in KERNELS]
SCHEDULES = ("cosine", "linear")  # how the learning rate falls to 0 after the warm-up
Schedule = Annotated[str, " or ".join(SCHEDULES), lambda x: x in SCHEDULES]
OPTIMIZERS = ("adamw", "adamw8bit")  # AdamW with moments in fp32, or in 8 bit
Optimizer = Annotated[str, " or ".join(OPTIMIZERS), lambda x: x in OPTIMIZERS]
QUANTIZATIONS = ("none", "nf4")  # of the frozen weights below adapters
DENSE = QUANTIZATIONS[0]
Quantization = Annotated[str, " or ".join(QUANTIZATIONS), lambda x: x in QUANTIZATIONS]
# How to compute, not what: these settings change no result beyond rounding.
EXECUTION = (
    "zero_stage",
    "offload_optimizer",
    "activation_checkpointing",
    "micro_batch_tokens",
    "checkpoint_every",
    "kernels",
    "sequence_ranks",
)
SAMPLING = 1  # of the Hugging Face backend: raise it when the same seed gives other answers
CONVERSION = 1  # of a package's weights: raise it when the same file gives other weights or another tokenizer
# torch ends a rank whose NCCL call takes longer, in seconds; DeepSpeed's process groups cannot be given another limit.
NCCL_SECONDS = 600
# Logits of one chunk: on a GPU 256 MiB of fp32, enough to keep its matrix units busy; on a CPU 16 MiB, which stay in
# the last-level cache and below the size that malloc maps, zeroes and unmaps at every call.
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
# Logits that a micro-batch may keep for its backward pass, 256 MiB of fp32; if it has more, none is kept.
KEPT_LOGITS = 1 << 26


def words_at_once(rows: int, chunk_logits: int) -> int:
    """Vocabulary entries of a chunk of `chunk_logits` logits; a multiple of 8, which suits a GPU's matrix units."""
    return max(8, chunk_logits // max(1, rows) // 8 * 8)


@dataclass(slots=True)
class TrainSettings:
    """Optimisation settings: those that change the weights, and those of EXECUTION, which do not.

    A stage's key names a `schedule` or an `optimizer` only if it is not the one that every stage had before there were
    two.
    """

    learning_rate: ranges.Positive
    global_batch: ranges.Count
    epochs: ranges.Count
    max_steps: ranges.CountOrNone
    warmup_ratio: ranges.Share
    weight_decay: ranges.NotNegative
    adam_beta2: ranges.Between
    max_grad_norm: ranges.Positive
    dtype: ranges.Dtype
    zero_stage: ranges.ZeroStage
    activation_checkpointing: bool
    micro_batch_tokens: ranges.Count
    checkpoint_every: ranges.Some
    kernels: Kernels = "plain"
    sequence_ranks: ranges.Count = 1
    offload_optimizer: bool = False
    schedule: Schedule = SCHEDULES[0]
    optimizer: Optimizer = OPTIMIZERS[0]

    def problems(self) -> list[str]:
        """Return what is wrong with the values, each with its remedy."""
        found = list(ranges.out_of_range(self, "train."))
        if self.kernels == "compiled" and self.zero_stage == 3:
            found.append(
                "train.kernels=compiled does not work with train.zero_stage=3, which gathers weights inside what would "
                "be compiled; use plain or liger"
            )
        if self.offload_optimizer and self.zero_stage != 3:
            found.append("train.offload_optimizer=true requires train.zero_stage=3")
        if self.optimizer == "adamw8bit" and (self.zero_stage != 3 or self.offload_optimizer):
            found.append("train.optimizer=adamw8bit requires train.zero_stage=3 and train.offload_optimizer=false")
        return found

    def problems_with(self, ranks: int) -> list[str]:
        """Return which values do not go with this number of ranks."""
        if ranks < 1:
            return []
        problems = {
            f"train.global_batch={self.global_batch} is not divisible by launch.ranks={ranks}": self.global_batch
            % ranks,
            f"train.sequence_ranks={self.sequence_ranks} does not divide launch.ranks={ranks}": self.sequence_ranks >= 1
            and ranks % self.sequence_ranks,
        }
        return [f"{problem}; change one of them" for problem, remainder in problems.items() if remainder]


@dataclass(slots=True)
class Architecture:
    """A Llama to be trained from scratch."""

    hidden_size: ranges.Count
    intermediate_size: ranges.Count
    num_hidden_layers: ranges.Count
    num_attention_heads: ranges.Count
    initializer_range: ranges.Positive
    max_position_embeddings: ranges.Count


@dataclass(slots=True)
class LoraSettings:
    """Rank and scale of the adapters, the linear modules that get one, and how the weights below them are kept.

    A stage's key names a `quantization` only where there is one: without, it is that of the time before there was any.
    """

    rank: int
    alpha: int
    targets: list[str]
    quantization: Quantization = DENSE

    def problems(self) -> list[str]:
        """Return what is wrong with the values, each with its remedy."""
        checks = {
            f"lora.rank={self.rank} must be >= 1; leave lora out to train without adapters": self.rank >= 1,
            f"lora.alpha={self.alpha} must be > 0": self.alpha > 0,
            "lora.targets must name modules, for example [q_proj, v_proj]": bool(self.targets),
        }
        return [message for message, fine in checks.items() if not fine]
