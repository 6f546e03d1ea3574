"""Processes that end with another one, whichever way it ends: nothing is left behind after a kill.

python -m focalpo.processes.lifeline PID MODULE ARGUMENTS...      run a module that ends with the process PID
"""

import os
import runpy
import select
import signal
import sys
import threading


def end_with(pid: int) -> None:
    """From now on, end this process as soon as process `pid` has ended."""
    try:
        other = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(target=_wait_and_end, args=(other,), daemon=True).start()


def _wait_and_end(other: int) -> None:
    poll = select.poll()
    poll.register(other, select.POLLIN)  # readable when the process has ended
    poll.poll()
    if os.getpgrp() == os.getpid():  # a server that was started apart from its maker: its own children go with it
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
