"""An object that lives in its own worker process, whose exit frees all the memory that the object held.

Several workers run concurrently: call `ask` on each, then `hear` on each.
"""

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from focalpo.processes.lifeline import end_with

PATIENCE = 60.0
"""Seconds to wait for a worker to exit by itself."""


class Apart:
    """The object that `make(*arguments)` returns, in a new process with `environment` added to its variables.

    Call `hear` once before the first `ask`: it returns when the object exists.
    """

    def __init__(self, environment: Mapping[str, str], make: Callable, *arguments: object) -> None:
        spawn = get_context("spawn")
        self.pipe, worker_end = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(worker_end, os.getpid(), dict(environment), make, arguments))
        self.process.start()
        worker_end.close()  # only the worker's copy is left, so the worker's death closes the pipe

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pipe.close()
        # After an error there is no point in waiting for a running computation.
        self.process.join(PATIENCE if kind is None else 0)
        self.process.kill()
        self.process.join()

    def ask(self, method: str, *arguments: object) -> None:
        """Call a method of the object without waiting for the result."""
        with contextlib.suppress(BrokenPipeError):  # the worker has died; `hear` reports it
            self.pipe.send((method, arguments))

    def hear(self, seconds: float | None = None) -> Any:
        """Wait for the last call and return its result.

        Raises:
            TimeoutError: when it takes longer than `seconds`; without them, there is no limit.
            ValueError: when the worker has died. An exception of the call itself is raised here, too; the worker has
                then exited.
        """
        try:
            if not self.pipe.poll(seconds):
                raise TimeoutError
            result, error = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise ValueError(
                f"a worker process exited with code {self.process.exitcode}; see its output above, then run again"
            ) from None
        if error is not None:
            raise error
        return result


def _serve(pipe: Connection, parent: int, environment: dict[str, str], make: Callable, arguments: tuple) -> None:
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this worker
    os.environ.update(environment)
    try:
        served = make(*arguments)
        pipe.send((None, None))
        while (call := _next(pipe)) is not None:
            method, arguments = call
            pipe.send((getattr(served, method)(*arguments), None))
    except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: what torch raises when a GPU is full
        error.add_note(traceback.format_exc())  # a traceback is not pickled
        pipe.send((None, error))


def _next(pipe: Connection) -> tuple[str, tuple] | None:
    try:
        return pipe.recv()
    except EOFError:
        return None
