"""Worker processes that run stages one after the other, with a pipe to each.

Not the standard library's pool, whose workers share state guarded by named semaphores: a worker that is killed while it
holds one leaves the others waiting forever, and the names stay in shared memory when a whole process group is killed.
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

from focalpo.processes.quiet import quiet_worker
from focalpo.running.stopping import saves
from focalpo.running.worker import make
from focalpo.stages.cores import cores_each
from focalpo.stages.folder import Folder, Stage, Stopped

GRACE = 2.0
"""Seconds that a stage has to stop by itself after it is asked to."""


@dataclass
class Worker:
    """A process, our end of the pipe to it, and the stage that it runs, if any, with the stage folder."""

    process: BaseProcess
    pipe: Connection
    stage: Stage | None = None
    folder: Path = Path()


class Pool:
    """At most `size` worker processes, started on demand and kept until the pool is closed.

    After an error or Ctrl-C, the pool asks its workers to stop. It waits for a training that has begun its steps to
    save, unless Ctrl-C comes again; any other stage that has not stopped after `GRACE` seconds is killed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.workers: list[Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stop()
        except KeyboardInterrupt:  # a second Ctrl-C: the user does not want to wait
            for worker in self.workers:
                worker.process.kill()
            raise
        for worker in self.workers:
            worker.pipe.close()
            worker.process.join()

    @property
    def stages(self) -> list[Stage]:
        """The stages that are running."""
        return [worker.stage for worker in self.workers if worker.stage]

    @property
    def free(self) -> int:
        """The number of further stages that can be started."""
        return self.size - len(self.stages)

    def start(self, runs: Path, stage: Stage) -> None:
        """Start a stage in a worker."""
        self.workers = [worker for worker in self.workers if worker.stage or worker.process.is_alive()]
        worker = next((worker for worker in self.workers if not worker.stage), None) or self._new_worker()
        worker.stage, worker.folder = stage, Folder(runs, stage).path
        with contextlib.suppress(BrokenPipeError):  # it has just died; `finished` reports that
            worker.pipe.send((runs, stage))

    def finished(self, timeout: float | None) -> Iterator[tuple[Stage, float | str]]:
        """Wait until stages end; yields each with the seconds it took, or with the reason why it failed."""
        ready = wait([worker.pipe for worker in self._busy()], timeout)
        for worker in [worker for worker in self.workers if worker.pipe in ready]:
            assert worker.stage, "only the pipes of busy workers are waited for"
            try:
                outcome = worker.pipe.recv()
            except (EOFError, ConnectionResetError):  # the latter when it died before it read the stage
                self.workers.remove(worker)
                outcome = _exit_reason(worker)
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
            # Python handles signals only between bytecodes; a matrix product or a library call may take minutes.
            saving = []
            for worker in self._busy():
                if worker.stage and saves(worker.folder):
                    saving.append(f"{worker.stage.kind}/{worker.stage.name}")
                else:
                    worker.process.kill()
            if saving and not announced:
                message = f"waiting for {', '.join(saving)} to save; press Ctrl-C again to stop at once"
                print(message, file=sys.stderr, flush=True)
                announced = True

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.stage]

    def _new_worker(self) -> Worker:
        spawn = get_context("spawn")
        ours, theirs = spawn.Pipe()
        # For stages that name no number of threads themselves: those that compute on a GPU, or not with torch.
        process = spawn.Process(target=_work, args=(theirs, os.getpid(), cores_each(self.size)))
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not interrupt its startup
        process.start()
        signal.signal(signal.SIGINT, previous)
        theirs.close()  # leaves the worker's copy as the only one, so its death closes the pipe
        worker = Worker(process, ours)
        self.workers.append(worker)
        return worker


def _work(pipe: Connection, parent: int, cores: int) -> None:
    quiet_worker(parent, cores)
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


def _exit_reason(worker: Worker) -> str:
    worker.pipe.close()
    worker.process.join()
    if worker.process.exitcode == -signal.SIGKILL:
        return "its worker was killed (out of memory?); lower launch.workers and run again"
    if worker.process.exitcode and worker.process.exitcode < 0:
        return f"its worker was ended by {signal.Signals(-worker.process.exitcode).name}; run again"
    return f"its worker exited with code {worker.process.exitcode}; its output above has the reason"
