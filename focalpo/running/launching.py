"""Run a stage in new processes: in several ranks, or in one process whose memory is freed when it exits."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from focalpo.running.stopping import LEFT, ask_to_save, stopping
from focalpo.stages.disk import explaining_disk_errors
from focalpo.stages.folder import ERROR, Job, Stopped

STACKS = ".stacks"
RANKED = ("sft", "reward", "reference", "anchors", "train")
"""Kinds that may run in several ranks."""


def in_new_processes(job: Job, ranks: int) -> None:
    """Run a stage in one new process or in several, and wait for them.

    Raises:
        ValueError: when the stage fails; `error.txt` has the same message and `log.txt` has the output of every start.
        Stopped: when this process is asked to stop, after the stage has exited; training saves first.
    """
    import torch

    # Its own number, on which the last bits of a sum depend; else this worker's share of the machine.
    threads = job.settings.get("threads") or max(1, torch.get_num_threads() // ranks)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "focalpo.running.worker", str(job.path)]
    command += [f"--ranks={ranks}", f"--threads={threads}"]
    with explaining_disk_errors(job.path):
        job.path.mkdir(parents=True, exist_ok=True)
        job.write()
        log = job.path / "log.txt"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "FOCALPO_MAKER": str(os.getpid())}
        before = log.stat().st_size if log.exists() else 0
        with stopping(job) as signals, log.open("a") as file:
            code = _run(command, file, environment, job, signals)
    if code and signals:
        raise Stopped(LEFT)
    if code:
        reason = _failure_reason(job, log, before)
        (job.path / ERROR).write_text(f"{reason}\n")
        raise ValueError(reason)


def _run(command: list[str], log: IO, environment: dict[str, str], job: Job, signals: list[int]) -> int:
    """Run a command to its end in a new session: the terminal's Ctrl-C reaches only us, and we ask it to save."""
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        while True:
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                if signals:  # repeatedly: a process that is still starting deletes the first request as a leftover
                    ask_to_save(job.path)
    except Stopped:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _failure_reason(job: Job, log: Path, before: int) -> str:
    """Why the stage failed, as its output after the first `before` bytes says: those are of earlier starts."""
    written = log.read_bytes()[before:].decode(errors="replace")
    errors = [line for line in written.splitlines() if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ")
    stacks = job.path / STACKS
    if any(stack.stat().st_size for stack in stacks.glob("*")):
        return (
            f"a step took longer than launch.hang_seconds={job.launch['hang_seconds']:g} and the ranks were killed; "
            f"{stacks} holds the stack of each rank; run again to resume from the last checkpoint"
        )
    return f"{job.kind} failed, see the end of {log}"
