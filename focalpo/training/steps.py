"""Number of steps, pairs of a step and learning rate: pure functions of the settings and the step.

A resumed run therefore needs only the step, and no state of a sampler or a scheduler.
"""

import math

import torch

from focalpo.training.settings import TrainSettings


def steps_of(pairs: int, settings: TrainSettings) -> int:
    """Number of optimizer steps of a run; the last, incomplete global batch of each epoch is dropped.

    Raises:
        ValueError: when there are fewer pairs than one global batch, or the only step is the warm-up's first.
    """
    if pairs < settings.global_batch:
        raise ValueError(f"{pairs} pairs do not fill one train.global_batch of {settings.global_batch}; lower it")
    steps = settings.epochs * (pairs // settings.global_batch)
    steps = min(steps, settings.max_steps or steps)
    if not any(learning_rate_at(step, steps, settings) for step in range(steps)):
        raise ValueError(
            f"the only step has learning rate 0, where train.warmup_ratio={settings.warmup_ratio:g} starts; set it to "
            "0, lower train.global_batch, or train longer (train.epochs, train.max_steps)"
        )
    return steps


def global_batch_at(step: int, pairs: int, global_batch: int, seed: int) -> list[int]:
    """Indices of the pairs of a step: one permutation per epoch, drawn from (seed, epoch) alone."""
    epoch, place = divmod(step, pairs // global_batch)
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(pairs, generator=draw)[place * global_batch : (place + 1) * global_batch].tolist()


def learning_rate_at(step: int, steps: int, settings: TrainSettings) -> float:
    """Linear warm-up from 0, then cosine or linear to 0: transformers' schedules.

    The recipes of the paper's family use the first, the first author's own runs the second (eval/author_runs.yaml).
    """
    warmup = math.ceil(steps * settings.warmup_ratio)
    if step < warmup:
        return settings.learning_rate * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    left = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * left
