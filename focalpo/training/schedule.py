"""How long a run is, which pairs a step sees and how fast it learns: pure functions of the settings and the step.

A resumed run therefore needs no more than the step, and no state of a sampler or a scheduler.
"""

import math
from dataclasses import dataclass

import torch

from focalpo.training.kernels import KERNELS


@dataclass(slots=True)
class TrainSettings:
    """Everything about optimisation that changes the weights, and what does not: the last five, plan.EXECUTION."""

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
        """What is wrong with the values, each with its remedy."""
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
            f"train.checkpoint_every={self.checkpoint_every} must be >= 0 steps": self.checkpoint_every >= 0,
        }
        return [message for message, fine in checks.items() if not fine]


def steps_of(pairs: int, settings: TrainSettings) -> int:
    """Optimizer steps of a run; the last, incomplete global batch of each epoch is left out.

    Raises:
        ValueError: when there are fewer pairs than one global batch.
    """
    if pairs < settings.global_batch:
        raise ValueError(f"{pairs} pairs do not fill one train.global_batch of {settings.global_batch}; lower it")
    steps = settings.epochs * (pairs // settings.global_batch)
    return min(steps, settings.max_steps or steps)


def global_batch_at(step: int, pairs: int, global_batch: int, seed: int) -> list[int]:
    """The pairs of a step: a permutation for each epoch, drawn from (seed, epoch) alone."""
    epoch, place = divmod(step, pairs // global_batch)
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(pairs, generator=draw)[place * global_batch : (place + 1) * global_batch].tolist()


def learning_rate_at(step: int, steps: int, settings: TrainSettings) -> float:
    """Linear warm-up from 0, then cosine to 0, as in transformers' schedule that the paper's family of recipes uses."""
    warmup = math.ceil(steps * settings.warmup_ratio)
    if step < warmup:
        return settings.learning_rate * step / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
