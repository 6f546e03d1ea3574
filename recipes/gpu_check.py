"""Check on this machine's GPU that training computes what it should, on tiny bf16 models: python -m recipes.gpu_check

Meant to take two minutes on a GPU, which has not been measured; without one it checks the CPU. `make doctor` runs it
for a scale that needs GPUs. What is checked: focalpo/speed/correct.py.
"""

import subprocess
import sys
from collections.abc import Iterator

import torch

from focalpo.running.command import run_command
from focalpo.speed.correct import all_checks
from focalpo.stages.origin import ROOT

COMMAND = "python -m recipes.gpu_check"
SECONDS = 600
"""After which `make doctor` gives up."""


def gpu_check() -> None:
    """Print every check as it ends; exits with 1 when one of them is not as it should be."""
    failed = False
    for found in all_checks():
        print(f"{'ok' if found.ok else 'fail':5} {found.name:24} {found.figures}", flush=True)
        failed |= not found.ok
    sys.exit(failed)


def verdict() -> Iterator[tuple[str, str]]:
    """The grade and the words of the whole check, run in a process of its own, which frees the GPU when it ends; none
    where there is no GPU."""
    if not torch.cuda.is_available():
        return
    try:
        command = [sys.executable, *COMMAND.split()[1:]]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        yield "fail", f"no end after {SECONDS} s: run {COMMAND}"
        return
    failed = [line.removeprefix("fail").strip() for line in run.stdout.splitlines() if line.startswith("fail")]
    if run.returncode:
        reason = "; ".join(failed) or (run.stderr.strip().splitlines() or ["no output"])[-1]
        yield "fail", f"{reason}: do not train on this GPU until {COMMAND} passes"
    else:
        yield "ok", f"training computes what it should, by {COMMAND}"


if __name__ == "__main__":
    run_command(gpu_check)
