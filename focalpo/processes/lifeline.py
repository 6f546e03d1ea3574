"""How a process exits: when another one does, for whatever reason, so that a kill leaves no orphans; and without the
interpreter's shutdown.

python -m focalpo.processes.lifeline PID MODULE ARGUMENTS...      run a module that exits with the process PID
"""

import os
import runpy
import select
import signal
import sys
import threading
from typing import NoReturn


def end_with(pid: int) -> None:
    """From now on, exit as soon as process `pid` has exited."""
    try:
        other = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(target=_wait_and_end, args=(other,), daemon=True).start()


def _wait_and_end(other: int) -> None:
    poll = select.poll()
    poll.register(other, select.POLLIN)  # readable once the process has exited
    poll.poll()
    if os.getpgrp() == os.getpid():  # a server in its own process group: its children end with it
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def leave(code: int = 0) -> NoReturn:
    """Exit without the interpreter's shutdown, which occasionally aborts after all work is done and on disk, because
    gloo's threads still hold Python objects. Every program that torchrun starts in ranks ends so."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
