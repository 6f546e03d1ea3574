"""An object in a worker process: its results, its exceptions, and that no process is left behind."""

import multiprocessing
import os
import signal
import time

import pytest

from focalpo.processes.apart import Apart


class Counter:
    """Counts in a worker process."""

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


def test_several_workers_run_concurrently_with_separate_state_and_environment() -> None:
    with Apart({"WHERE": "one"}, Counter, 1) as one, Apart({"WHERE": "two"}, Counter, 10) as two:
        assert one.hear() is two.hear() is None
        one.ask("add", 1)
        two.ask("add", 2)
        assert (one.hear(), two.hear()) == ((2, one.process.pid, "one"), (12, two.process.pid, "two"))
        one.ask("add", 1)
        assert one.hear() == (3, one.process.pid, "one")
    assert not multiprocessing.active_children() and (one.process.exitcode, two.process.exitcode) == (0, 0)


def test_an_exception_is_raised_in_the_parent_with_the_worker_traceback() -> None:
    with Apart({}, Counter, -1) as worker, pytest.raises(ValueError, match="start=-1 must be >= 0"):
        worker.hear()
    with Apart({}, Counter, 0) as worker:
        worker.hear()
        worker.ask("fail")
        with pytest.raises(RuntimeError, match="out of memory") as caught:
            worker.hear()
    assert "in fail" in "".join(caught.value.__notes__)


def test_a_killed_worker_is_reported_and_a_busy_one_ends_with_an_error_in_the_parent() -> None:
    with Apart({}, Counter, 0) as worker:
        worker.hear()
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.join()
        worker.ask("add", 1)
        with pytest.raises(ValueError, match="a worker process exited with code -9; see its output above"):
            worker.hear()
    started = time.monotonic()
    with pytest.raises(KeyError), Apart({}, Counter, 0) as worker:
        worker.hear()
        worker.ask("sleep")
        raise KeyError
    assert time.monotonic() - started < 30 and not multiprocessing.active_children()
