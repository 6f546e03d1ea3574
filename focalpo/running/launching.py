"""Make a stage in new processes: several ranks, or one that gives back the memory that it takes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from focalpo.running.stopping import LEFT, ask_to_save, stopping
from focalpo.stages.folder import ERROR, Job, Stopped, explaining_disk_errors

STACKS = ".stacks"


def in_new_processes(job: Job, ranks: int) -> None:
    """Make a stage in a process of its own, or in several, and wait for them.

    Raises:
        ValueError: when it failed; `error.txt` says it too, and `log.txt` has all that was printed.
        Stopped: when this process was asked to stop, once the stage has left; training saves first.
    """
    import torch

    threads = max(1, torch.get_num_threads() // ranks)  # this worker's share of the machine, and no other's
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "focalpo.running.worker", str(job.path)]
    with explaining_disk_errors(job.path):
        job.path.mkdir(parents=True, exist_ok=True)
        job.write()
        log = job.path / "log.txt"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "FOCALPO_MAKER": str(os.getpid())}
        with stopping(job) as came, log.open("w") as file:
            code = _run(command, file, environment, job, came)
    if code and came:
        raise Stopped(LEFT)
    if code:
        why = _why(job, log)
        (job.path / ERROR).write_text(f"{why}\n")
        raise ValueError(why)


def _run(command: list[str], log: IO, environment: dict[str, str], job: Job, came: list[int]) -> int:
    """Run a command to its end, in a session of its own: the terminal's Ctrl-C is for us, who ask it to save."""
    started = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        while True:
            try:
                return started.wait(1)
            except subprocess.TimeoutExpired:
                if came:  # again: a process that was only starting has taken the first one for an old run's
                    ask_to_save(job.path)
    except Stopped:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        raise


def _why(job: Job, log: Path) -> str:
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    if said:
        return said[-1].removeprefix("error: ")
    stacks = job.path / STACKS
    if any(stack.stat().st_size for stack in stacks.glob("*")):
        return (
            f"a step took longer than launch.hang_seconds={job.launch['hang_seconds']:g}; {stacks} holds the stack of "
            "each rank; the ranks were ended, run again to go on from the last checkpoint"
        )
    return f"{job.kind} failed, see the end of {log}"
