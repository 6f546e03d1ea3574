"""An object in a process of its own: made there, asked there, and gone with all the memory that it held.

Several of them work at the same time: ask each, then hear each.
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
"""Seconds for a process to end by itself."""


class Apart:
    """What `make(*arguments)` gives, in a new process whose environment has these variables too.

    `hear` once before the first question: it returns when the object is made.
    """

    def __init__(self, environment: Mapping[str, str], make: Callable, *arguments: object) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, os.getpid(), dict(environment), make, arguments))
        self.process.start()
        theirs.close()  # the process's own is the only one left: its death closes the pipe

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pipe.close()
        # After an error nobody waits for what is still being computed there.
        self.process.join(PATIENCE if kind is None else 0)
        self.process.kill()
        self.process.join()

    def ask(self, method: str, *arguments: object) -> None:
        """Call a method of the object, and do not wait for it."""
        with contextlib.suppress(BrokenPipeError):  # it has died, which `hear` will tell
            self.pipe.send((method, arguments))

    def hear(self) -> Any:
        """What the call returned.

        Raises:
            ValueError: when the process has died; and what the call itself raised, which ends the process too.
        """
        try:
            returned, error = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise ValueError(
                f"a process died with code {self.process.exitcode}, after what it printed above; run again"
            ) from None
        if error is not None:
            raise error
        return returned


def _serve(pipe: Connection, maker: int, environment: dict[str, str], make: Callable, arguments: tuple) -> None:
    end_with(maker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; whoever made this process ends it
    os.environ.update(environment)
    try:
        made = make(*arguments)
        pipe.send((None, None))
        while (asked := _next(pipe)) is not None:
            method, arguments = asked
            pipe.send((getattr(made, method)(*arguments), None))
    except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: torch's of a GPU that is full
        error.add_note(traceback.format_exc())  # a pipe carries no traceback
        pipe.send((None, error))


def _next(pipe: Connection) -> tuple[str, tuple] | None:
    try:
        return pipe.recv()
    except EOFError:
        return None
