"""Training settings of a configuration, and constants that the cost estimates share with the training loop.

Classes are not frozen, since they are part of the schema. Imports neither torch nor other modules of the project: every
command reads a configuration, few train.
"""

from dataclasses import dataclass

KERNELS = ("plain", "compiled", "liger")
# How to compute, not what: these settings change no result beyond rounding.
EXECUTION = ("zero_stage", "activation_checkpointing", "micro_batch_tokens", "checkpoint_every", "kernels")
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
    """Optimisation settings: those that change the weights, and the last five (EXECUTION), which do not."""

    learning_rate: float
    global_batch: int
    epochs: int
    max_steps: int | None
    warmup_ratio: float
    weight_decay: float
    adam_beta2: float
    max_grad_norm: float
    dtype: str
    zero_stage: int
    activation_checkpointing: bool
    micro_batch_tokens: int
    checkpoint_every: int
    kernels: str = "plain"

    def problems(self) -> list[str]:
        """Return what is wrong with the values, each with its remedy."""
        checks = {
            f"train.learning_rate={self.learning_rate} must be > 0": self.learning_rate > 0,
            f"train.global_batch={self.global_batch} must be >= 1 pairs": self.global_batch >= 1,
            f"train.epochs={self.epochs} must be >= 1": self.epochs >= 1,
            f"train.max_steps={self.max_steps} must be >= 1, or null": self.max_steps is None or self.max_steps >= 1,
            f"train.warmup_ratio={self.warmup_ratio} must be in [0, 1)": 0 <= self.warmup_ratio < 1,
            f"train.weight_decay={self.weight_decay} must be >= 0": self.weight_decay >= 0,
            f"train.adam_beta2={self.adam_beta2} must be in (0, 1)": 0 < self.adam_beta2 < 1,
            f"train.max_grad_norm={self.max_grad_norm} must be > 0": self.max_grad_norm > 0,
            f"train.dtype={self.dtype!r} must be float32 or bfloat16": self.dtype in ("float32", "bfloat16"),
            f"train.zero_stage={self.zero_stage} must be 0, 1, 2 or 3": self.zero_stage in (0, 1, 2, 3),
            f"train.micro_batch_tokens={self.micro_batch_tokens} must be >= 1": self.micro_batch_tokens >= 1,
            f"train.kernels={self.kernels!r} must be {', '.join(KERNELS)}": self.kernels in KERNELS,
            "train.kernels=compiled does not work with train.zero_stage=3, which gathers weights inside what would be "
            "compiled; use plain or liger": self.kernels != "compiled" or self.zero_stage != 3,
            f"train.checkpoint_every={self.checkpoint_every} must be >= 0 steps": self.checkpoint_every >= 0,
        }
        return [message for message, fine in checks.items() if not fine]


@dataclass(slots=True)
class Architecture:
    """A Llama to be trained from scratch."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    initializer_range: float
    max_position_embeddings: int


@dataclass(slots=True)
class LoraSettings:
    """Rank and scale of the adapters, and the linear modules that get one."""

    rank: int
    alpha: int
    targets: list[str]

    def problems(self) -> list[str]:
        """Return what is wrong with the values, each with its remedy."""
        checks = {
            f"lora.rank={self.rank} must be >= 1; leave lora out to train without adapters": self.rank >= 1,
            f"lora.alpha={self.alpha} must be > 0": self.alpha > 0,
            "lora.targets must name modules, for example [q_proj, v_proj]": bool(self.targets),
        }
        return [message for message, fine in checks.items() if not fine]
