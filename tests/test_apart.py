"""An object in another process: what it says, what it raises, and that nothing of it is left."""

import multiprocessing
import os
import signal
import time

import pytest

from focalpo.processes.apart import Apart


class Counter:
    """Counts in its own process."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError(f"start={start} must be >= 0")
        self.count = start

    def add(self, number: int) -> tuple[int, int, str]:
        self.count += number
        return self.count, os.getpid(), os.environ["WHERE"]

    def fail(self) -> None:
        raise RuntimeError("out of memory")

    def sleep(self) -> None:
        time.sleep(600)


def test_several_are_asked_at_once_and_each_keeps_its_own_state_and_environment() -> None:
    with Apart({"WHERE": "one"}, Counter, 1) as one, Apart({"WHERE": "two"}, Counter, 10) as two:
        assert one.hear() is two.hear() is None
        one.ask("add", 1)
        two.ask("add", 2)
        assert (one.hear(), two.hear()) == ((2, one.process.pid, "one"), (12, two.process.pid, "two"))
        one.ask("add", 1)
        assert one.hear() == (3, one.process.pid, "one")
    assert not multiprocessing.active_children() and (one.process.exitcode, two.process.exitcode) == (0, 0)


def test_what_it_raises_is_raised_here_and_says_where() -> None:
    with Apart({}, Counter, -1) as made, pytest.raises(ValueError, match="start=-1 must be >= 0"):
        made.hear()
    with Apart({}, Counter, 0) as made:
        made.hear()
        made.ask("fail")
        with pytest.raises(RuntimeError, match="out of memory") as told:
            made.hear()
    assert "in fail" in "".join(told.value.__notes__)


def test_one_that_is_killed_is_told_and_one_that_computes_ends_with_an_error_here() -> None:
    with Apart({}, Counter, 0) as made:
        made.hear()
        os.kill(made.process.pid, signal.SIGKILL)
        made.process.join()
        made.ask("add", 1)
        with pytest.raises(ValueError, match="a process died with code -9, after what it printed above"):
            made.hear()
    started = time.monotonic()
    with pytest.raises(KeyError), Apart({}, Counter, 0) as made:
        made.hear()
        made.ask("sleep")
        raise KeyError
    assert time.monotonic() - started < 30 and not multiprocessing.active_children()
