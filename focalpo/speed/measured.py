"""What a timed run reports, and how it is measured in its process."""

import time
from dataclasses import dataclass

import torch

from focalpo.speed.flops import synchronize
from focalpo.stages.memory import forget_resident_peak, resident_peak
from focalpo.training.ranks import device


@dataclass(slots=True)
class Measured:
    """One process's run: seconds of each step after the first, peak memory, the first step's loss, and the rate of a
    matrix product measured just before."""

    seconds: list[float]
    peak_bytes: int
    first_loss: float
    matmul_rate: float


class Stopwatch:
    """Times steps; takes the place of the training loop's tracker."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._last = 0.0

    def resume_at(self, step: int) -> None:
        self._last = self._now()

    def log(self, step: int, **metrics: float) -> None:
        now = self._now()
        self.seconds.append(now - self._last)
        self.losses.append(metrics["loss"])
        self._last = now

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Do nothing: a timed run shows no progress."""

    @staticmethod
    def _now() -> float:
        synchronize(device())
        return time.perf_counter()


def peak_bytes() -> int:
    """Peak memory of the run: of the GPU allocator, or of the process's resident set on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resident_peak()


def forget_peak() -> int:
    """Begin a new peak at the memory that is in use now, and return that."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return forget_resident_peak()
