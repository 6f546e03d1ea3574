"""A tiny training in a process of its own, to be killed, stopped or damaged."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from focalpo.config.compose import compose
from focalpo.planning.stages import train_stage
from focalpo.stages.folder import Folder

ROOT = Path(__file__).parent.parent
TINY = [
    "experiment=pocket/focalpo",
    "model.phases.pretraining.count=320",
    "model.phases.pretraining.train.max_steps=4",
    "model.phases.sft.count=320",
    "model.phases.sft.train.max_steps=4",
    "data.prompts=600",
    "dynamics.train_pairs=20",
    "train.checkpoint_every=2",
]


def described(inputs: Path, runs: Path, *more: str) -> Path:
    """A training's stage folder, ready for a worker, beside the sealed inputs."""
    for kind in ("sft", "pairs", "reference"):
        if not (runs / kind).exists():
            (runs / kind).symlink_to(inputs / kind)
    folder = Folder(runs, train_stage(compose([*TINY, f"runs={runs}", *more]), "focalpo"))
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.job.write()
    return folder.path


def worker(path: Path, *before: str, ranks: int = 1) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [*before, sys.executable, *torchrun, "-m", "focalpo.running.worker", str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def ended(process: subprocess.Popen, code: int | None = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert code is None or process.returncode == code, output
    return output


def until(process: subprocess.Popen, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model" / "model.safetensors")
