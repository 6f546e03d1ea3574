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
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from focalpo.stages.origin import commit, hardware, packages

MANIFEST = "manifest.json"
LOCK = ".lock"
CHECKPOINTS = ".checkpoints"
STOP = "stop"  # in .checkpoints: whoever makes this file asks the training to save and leave
SAVES = "saves"  # in .checkpoints: there while the training would do so
ERROR = "error.txt"  # why the stage was not made the last time it was tried
DISK_ERRORS = {
    errno.ENOSPC: "no space left on the disk of {}; free some",
    errno.EDQUOT: "the disk quota of {} is used up; free some",
    errno.EROFS: "{} is on a read-only disk; set runs= to a folder that can be written",
    errno.EACCES: "{} may not be written; set runs= to a folder of yours",
}


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
        return _key(self.kind, self.settings, {name: stage.key for name, stage in self.inputs.items()})

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


def _key(kind: str, settings: dict, inputs: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([kind, settings, inputs], sort_keys=True).encode()).hexdigest()[:12]


class Folder:
    """A stage's folder under `runs`."""

    def __init__(self, runs: Path, stage: Stage) -> None:
        self.stage = stage
        # The key is the identity, the name a label for readers: whoever made the stage first has named its folder.
        made = sorted((runs / stage.kind).glob(f"*-{stage.key}"))
        self.path = made[0] if made else runs / stage.kind / f"{stage.name}-{stage.key}"
        inputs = {name: Folder(runs, needed).path for name, needed in stage.inputs.items()}
        self.job = Job(stage.kind, stage.name, stage.key, stage.settings, stage.launch, self.path, inputs)

    @classmethod
    def at(cls, path: Path) -> "Folder":
        """The folder at a path, from what its own `stage.json` says: all that a maker on another node needs.

        Raises:
            ValueError: when its settings are not those that its key was made of.
        """
        folder = cls.__new__(cls)
        folder.path, folder.job = path, Job.read(path)
        keys = {name: needed.name.rpartition("-")[2] for name, needed in folder.job.inputs.items()}
        if folder.job.key != _key(folder.job.kind, folder.job.settings, keys):
            raise ValueError(f"{path / 'stage.json'} was edited (its key is another's); remove {path} and run again")
        return folder

    @property
    def sealed(self) -> bool:
        return (self.path / MANIFEST).is_file()

    @contextlib.contextmanager
    def being_made(self, patience: float = 1.0) -> Iterator[Job]:
        """Hold the folder's lock while its outputs are written. A dead owner's lock is released by the kernel.

        `patience`: seconds to wait for it; at least a moment, since `make status` looks at locks by taking them.

        Raises:
            ValueError: when another live process is still making the same stage, or the disk is full or read-only.
        """
        with explaining_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / LOCK).open("a") as lock:
                if not _locked(lock, patience):
                    raise ValueError(f"{self.path} is being made by another process; wait for it or stop it")
                lock.write("x")  # a sign for each start
                lock.flush()
                self.job.write()
                yield self.job

    def seal(self, seconds: float, facts: dict | None = None) -> None:
        """Write the manifest, last and atomically: the stage is complete. `facts` must be free of secrets."""
        manifest = {
            "stage": f"{self.job.kind}/{self.path.name}",
            "key": self.job.key,
            "settings": self.job.settings,
            "inputs": {name: f"{path.parent.name}/{path.name}" for name, path in self.job.inputs.items()},
            "outputs": output_hashes(self.path),
            "facts": facts or {},
            "seconds": round(seconds, 3),  # of the last start
            "starts": (self.path / LOCK).stat().st_size,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": commit(),
            "packages": packages(),
            "hardware": hardware(),
        }
        write_json(self.path / MANIFEST, manifest | {"sha256": _own_hash(manifest)})
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)  # as large as many models, and of no more use

    def break_seal(self) -> None:
        """Make the stage unfinished again; what is not as the manifest says goes, so that making it anew cannot use it.

        Hold the lock (`being_made`). Where the manifest itself was edited nothing it vouches for can be trusted.
        """
        try:
            manifest = read_manifest(self.path)
        except Damaged:
            manifest = {}
        trusted = manifest["outputs"] if manifest and manifest.get("sha256") == _own_hash(manifest) else {}
        for name, found in output_hashes(self.path).items():
            if trusted.get(name) != found:
                (self.path / name).unlink()
        (self.path / MANIFEST).unlink()


class Stopped(Exception):
    """A stage was asked to stop before it was complete: the same command goes on from what is saved."""


class Damaged(ValueError):
    """A folder is not sealed, or not what its manifest says."""


@contextlib.contextmanager
def explaining_disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk may refuse into a user's error: no space, a quota, no permission, read-only.

    Raises:
        ValueError: instead of such an error, however the library that met it wraps it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        told = next((DISK_ERRORS[c] for c in DISK_ERRORS if number == c or f"os error {c})" in str(error)), None)
        if told is None:
            raise
        raise ValueError(f"{told.format(path)} and run again") from error


def read_manifest(path: Path) -> dict:
    """The manifest of a sealed stage folder.

    Raises:
        Damaged: when the folder is not sealed, or its manifest is no JSON.
    """
    try:
        return json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise Damaged(f"{path} is not complete; make its stage first") from None
    except ValueError:
        raise Damaged(f"{path / MANIFEST} was edited (it is no JSON); its stage must be made again") from None


def verify(path: Path) -> None:
    """Compare every output of a sealed folder with its manifest, and the manifest with its own hash.

    Raises:
        Damaged: naming the first file that is missing, has other content, or was added.
    """
    manifest = read_manifest(path)
    if manifest.get("sha256") != _own_hash(manifest):
        raise Damaged(f"{path / MANIFEST} was edited (its own sha256 differs); its stage must be made again")
    expected, found = manifest["outputs"], output_hashes(path)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise Damaged(f"{path / name} is not what its manifest says (sha256 differs); its stage must be made again")


def _locked(lock: TextIO, patience: float) -> bool:
    """Whether the lock is ours, after at most so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _own_hash(manifest: dict) -> str:
    text = json.dumps({name: value for name, value in manifest.items() if name != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def output_hashes(path: Path) -> dict[str, str]:
    """sha256 of every output by its name in the folder."""
    return {str(p.relative_to(path)): file_hash(p) for p in output_files(path)}


def output_files(path: Path) -> list[Path]:
    """Files that count as outputs: not the manifest, logs, progress, checkpoints or hidden files."""
    apart = {MANIFEST, "stage.json", "progress.json", "log.txt", ERROR, "not_finite.json"}
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
