"""A clock that only sleeping moves: hours of waiting pass in milliseconds, for all threads together."""

import threading

import pytest

from focalpo.judging import batching, endpoint, pacing


class FakeClock:
    """Stands in for the module `time` where the judge's endpoint waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_800_000_000 + self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    for module in (batching, endpoint, pacing):
        monkeypatch.setattr(module, "time", clock)
    return clock
