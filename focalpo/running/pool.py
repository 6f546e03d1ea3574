"""Processes that make stages one after the other, and a pipe to each.

Not the standard library's pool: what its workers share is guarded by named semaphores. A worker that is killed while it
holds one leaves the others waiting for ever, and the names stay in shared memory when a group is killed at once.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from focalpo.processes.quiet import cores_each, quiet_worker
from focalpo.running.stopping import saves
from focalpo.running.worker import make
from focalpo.stages.folder import Folder, Stage, Stopped

GRACE = 2.0
"""Seconds for a stage to stop by itself when it is asked to."""


@dataclass
class Worker:
    """A process, our end of the pipe to it, and the stage that it makes, if any, with its folder."""

    process: BaseProcess
    pipe: Connection
    stage: Stage | None = None
    folder: Path = Path()


class Pool:
    """At most `size` processes, started when they are needed and kept until the pool is left.

    Left by an error or Ctrl-C, it asks its workers to stop. A training that takes steps saves first and is waited for,
    unless Ctrl-C comes again; whatever else has not stopped after `GRACE` seconds is killed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.workers: list[Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stop()
        except KeyboardInterrupt:  # a second Ctrl-C is for who does not want to wait
            for worker in self.workers:
                worker.process.kill()
            raise
        for worker in self.workers:
            worker.pipe.close()
            worker.process.join()

    @property
    def stages(self) -> list[Stage]:
        """What is being made."""
        return [worker.stage for worker in self.workers if worker.stage]

    @property
    def free(self) -> int:
        """How many more stages can be started."""
        return self.size - len(self.stages)

    def start(self, runs: Path, stage: Stage) -> None:
        """Have a worker make a stage."""
        self.workers = [worker for worker in self.workers if worker.stage or worker.process.is_alive()]
        worker = next((worker for worker in self.workers if not worker.stage), None) or self._new_worker()
        worker.stage, worker.folder = stage, Folder(runs, stage).path
        with contextlib.suppress(BrokenPipeError):  # it has just died, which `finished` will tell
            worker.pipe.send((runs, stage))

    def finished(self, timeout: float | None) -> Iterator[tuple[Stage, float | str]]:
        """Wait until stages come to an end: each with the seconds it took, or why it was not made."""
        ready = wait([worker.pipe for worker in self._busy()], timeout)
        for worker in [worker for worker in self.workers if worker.pipe in ready]:
            assert worker.stage, "only pipes of workers that make something are waited for"
            try:
                outcome = worker.pipe.recv()
            except (EOFError, ConnectionResetError):  # the latter when it died before it took the stage
                self.workers.remove(worker)
                outcome = _death(worker)
            stage, worker.stage = worker.stage, None
            yield stage, outcome

    def _stop(self) -> None:
        for worker in self._busy():
            worker.process.terminate()
        deadline, announced = time.monotonic() + GRACE, False
        while self._busy():
            list(self.finished(0.1))
            if time.monotonic() < deadline:
                continue
            # A signal is seen between two lines of Python: a product of matrices or a library's wait may take minutes.
            for worker in self._busy():
                if not saves(worker.folder):
                    worker.process.kill()
            still = [f"{worker.stage.kind}/{worker.stage.name}" for worker in self._busy() if worker.stage]
            if still and not announced:
                print(f"waiting for {', '.join(still)} to save; Ctrl-C again ends at once", file=sys.stderr, flush=True)
                announced = True

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.stage]

    def _new_worker(self) -> Worker:
        spawn = get_context("spawn")
        ours, theirs = spawn.Pipe()
        # Threads follow the pool's size, not how many are busy: a sum's last bits depend on the number of threads, and
        # a stage must come out the same whether it is made first, alone, or again after a kill.
        process = spawn.Process(target=_work, args=(theirs, os.getpid(), cores_each(self.size)))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: it may start up without Python's handler
        process.start()
        signal.signal(signal.SIGINT, before)
        theirs.close()  # the worker's own is the only one left: its death closes the pipe
        worker = Worker(process, ours)
        self.workers.append(worker)
        return worker


def _work(pipe: Connection, maker: int, cores: int) -> None:
    quiet_worker(maker, cores)
    while True:
        try:
            runs, stage = pipe.recv()
        except EOFError:
            return
        try:
            outcome: float | str = make(runs, stage)
        except ValueError as error:
            outcome = str(error)
        except Stopped as stopped:
            pipe.send(str(stopped))
            return
        pipe.send(outcome)


def _death(worker: Worker) -> str:
    worker.pipe.close()
    worker.process.join()
    if worker.process.exitcode == -signal.SIGKILL:
        return "its worker was killed (out of memory?); lower launch.workers and run again"
    return f"its worker ended with code {worker.process.exitcode}, after what it printed above; run again"
