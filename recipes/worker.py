"""Make one stage: in this process, or by `torchrun` on several ranks. Whoever makes it, the folder says what it is."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from focalpo.artifact import Folder, Job, Stage, verify
from recipes.quiet import cores_each

RANKED = ("sft", "reference", "train")
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
        facts = recipe(job) if ranks == 1 else _on_ranks(job, ranks)
        seconds = time.monotonic() - started
        folder.seal(seconds, facts)
    return seconds


def recipe(job: Job) -> dict:
    """Call the recipe of the job's kind."""
    return importlib.import_module(f"recipes.{job.kind}").make(job)


def _on_ranks(job: Job, ranks: int) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    log = job.path / "log.txt"
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": str(cores_each(ranks))}
        command += ["-m", "recipes.rank", str(job.path)]
        ended = subprocess.run(command, stdout=file, stderr=file, env=environment)
    if ended.returncode:
        said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        reason = said[-1].removeprefix("error: ") if said else f"{ranks} ranks failed, see the end of {log}"
        raise ValueError(reason)
    return json.loads((job.path / FACTS).read_text()) | {"ranks": ranks}
