"""What a timed run says of itself, and how it is read off a process."""

import time
from dataclasses import dataclass

import torch

from focalpo.processes.memory import resident_peak
from focalpo.speed.flops import synchronize
from focalpo.training.ranks import device


@dataclass(slots=True)
class Measured:
    """One process's run: seconds of each step after the first, memory at its peak, the first step's loss, and what a
    matrix product reached just before."""

    seconds: list[float]
    peak_bytes: int
    first_loss: float
    matmul_rate: float


class Stopwatch:
    """Times steps; stands where the training loop wants a tracker."""

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
        """Nothing: a timed run shows none."""

    @staticmethod
    def _now() -> float:
        synchronize(device())
        return time.perf_counter()


def peak_bytes() -> int:
    """The most memory that the run ever held: the GPU's allocator's, or the process's resident set on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resident_peak()
