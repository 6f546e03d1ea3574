"""Make one stage: in this process, or in new ones. Whoever makes it, the folder says what it is."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from focalpo.artifact import Folder, Job, Stage, verify
from recipes.quiet import cores_each

RANKED = ("sft", "reward", "reference", "train")
FACTS = ".facts.json"  # what rank 0 tells the process that seals


def make(runs: Path, stage: Stage) -> float:
    """Make a stage unless it is sealed already; returns the seconds it took, 0 when there was nothing to do."""
    folder = Folder(runs, stage)
    if folder.sealed:
        return 0.0
    with folder.being_made() as job:
        if folder.sealed:  # by whoever held the lock before us
            return 0.0
        for path in job.inputs.values():
            verify(path)
        started = time.monotonic()
        ranks = job.launch.get("ranks", 1) if job.kind in RANKED else 1
        facts = _in_new_processes(job, ranks) if ranks > 1 or _keeps_memory(job) else recipe(job)
        seconds = time.monotonic() - started
        folder.seal(seconds, facts)
    return seconds


def recipe(job: Job) -> dict:
    """Call the recipe of the job's kind."""
    return importlib.import_module(f"recipes.{job.kind}").make(job)


def _keeps_memory(job: Job) -> bool:
    """Whether the stage would hold what the next one needs: GPU memory and vLLM's caches go back with their process."""
    return torch.cuda.is_available() or job.settings.get("backend") == "vllm"


def _in_new_processes(job: Job, ranks: int) -> dict:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "recipes.rank", str(job.path)]
    log = job.path / "log.txt"
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": str(cores_each(ranks))}
        ended = subprocess.run(command, stdout=file, stderr=file, env=environment)
    if ended.returncode:
        said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        raise ValueError(said[-1].removeprefix("error: ") if said else f"{job.kind} failed, see the end of {log}")
    return json.loads((job.path / FACTS).read_text())
