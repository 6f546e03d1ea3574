"""Stages and stage folders: the only channel between processes.

    runs/<kind>/<name>-<key>/   stage.json (what it is)   <outputs>   manifest.json (written last: complete)

A stage is a pure value. Its key is a hash of everything its outputs depend on: its settings and the keys of its inputs.
A folder with a manifest is sealed and is never written again; a folder without one is unfinished.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from focalpo.stages.code import recipe_code
from focalpo.stages.disk import explaining_disk_errors
from focalpo.stages.lock import LOCK, SHORT, locked
from focalpo.stages.origin import commit, hardware, packages, threads
from focalpo.stages.reading import KeysMissing, check_keys, os_remedy, read_json

MANIFEST = "manifest.json"
MANIFEST_KEYS = {"stage": str, "settings": dict, "inputs": dict, "outputs": dict, "facts": dict}
CHECKPOINTS = ".checkpoints"
STOP = "stop"  # in .checkpoints: creating this file asks the training to save and exit
SAVES = "saves"  # in .checkpoints: exists while the training would honour that request
ERROR = "error.txt"  # why the last attempt at the stage failed


@dataclass(frozen=True)
class Stage:
    """The description of a stage.

    `settings` are the plain JSON values on which the outputs depend; `launch` says how to run the stage (ranks,
    endpoint, tracking) and is not part of the key. Neither are stages that only have to be sealed `before` it starts.
    """

    kind: str
    name: str
    settings: dict
    inputs: dict[str, "Stage"] = field(default_factory=dict)
    launch: dict = field(default_factory=dict)
    before: tuple["Stage", ...] = ()

    @cached_property
    def key(self) -> str:
        """Twelve hex digits, equal exactly when kind, settings and inputs are equal."""
        return _key(self.kind, self.settings, {name: stage.key for name, stage in self.inputs.items()})

    @property
    def title(self) -> str:
        return f"{self.kind}/{self.name}-{self.key}"

    @property
    def needed(self) -> list["Stage"]:
        """What is sealed before the stage starts: first what it only waits for, then its inputs."""
        return [*self.before, *self.inputs.values()]


@dataclass(frozen=True, slots=True)
class Job:
    """A stage as the process that runs it sees it: its description, the folder to fill and the sealed folders to read.

    `stage.json` holds it, so that the stage can run in another process, on another node.
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
        """The job described by the `stage.json` of a stage folder.

        Raises:
            ValueError: when the folder has none, or it does not describe a stage.
        """
        file = path / "stage.json"
        if not file.is_file():
            raise ValueError(f"{path} is no stage folder, it has no stage.json; name one below runs/")
        values = read_json(file, f"remove {path} and run again")
        kinds = {"kind": str, "name": str, "key": str, "settings": dict, "launch": dict, "inputs": dict}
        check_keys(file, values, kinds, f"remove {path} and run again")
        # By their place in the same runs folder, wherever it was when this was written: it may be copied and moved.
        runs = (path if len(path.parts) > 2 else path.absolute()).parent.parent
        inputs = {name: runs.joinpath(*Path(folder).parts[-2:]) for name, folder in values.pop("inputs").items()}
        return Job(**{name: values[name] for name in kinds if name != "inputs"}, path=path, inputs=inputs)

    def write(self) -> None:
        values = {name: getattr(self, name) for name in ("kind", "name", "key", "settings", "launch")}
        write_json(self.path / "stage.json", values | {"inputs": _in_runs(self.inputs)})

    def of(self, names: Collection[str]) -> "Job":
        """The same job with only these of its inputs: another key, and a folder of its own beside this one."""
        inputs = {name: path for name, path in self.inputs.items() if name in names}
        key = _key(self.kind, self.settings, _keys(inputs))
        return replace(self, key=key, path=self.path.with_name(f"{self.name}-{key}"), inputs=inputs)


def _in_runs(folders: dict[str, Path]) -> dict[str, str]:
    """Stage folders as KIND/NAME-KEY, their place in any runs folder."""
    return {name: f"{path.parent.name}/{path.name}" for name, path in folders.items()}


def _keys(inputs: dict[str, Path]) -> dict[str, str]:
    return {name: path.name.rpartition("-")[2] for name, path in inputs.items()}


def _key(kind: str, settings: dict, inputs: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([kind, settings, inputs], sort_keys=True).encode()).hexdigest()[:12]


class Folder:
    """The folder of a stage under `runs`."""

    def __init__(self, runs: Path, stage: Stage) -> None:
        self.stage = stage
        # The key is the identity, the name only a label for readers: an existing folder keeps its name.
        existing = sorted((runs / stage.kind).glob(f"*-{stage.key}"))
        self.path = existing[0] if existing else runs / stage.kind / f"{stage.name}-{stage.key}"
        inputs = {name: Folder(runs, other).path for name, other in stage.inputs.items()}
        self.job = Job(stage.kind, stage.name, stage.key, stage.settings, stage.launch, self.path, inputs)

    @classmethod
    def at(cls, path: Path) -> "Folder":
        """The folder at a path, read from its own `stage.json`: all that a process on another node needs.

        Raises:
            ValueError: when the settings do not match the key.
        """
        folder = cls.__new__(cls)
        folder.path, folder.job = path, Job.read(path)
        if folder.job.key != _key(folder.job.kind, folder.job.settings, _keys(folder.job.inputs)):
            raise ValueError(
                f"{path / 'stage.json'} was edited (its settings do not match its key); remove {path} and run again"
            )
        return folder

    @property
    def sealed(self) -> bool:
        return (self.path / MANIFEST).is_file()

    @contextlib.contextmanager
    def being_made(self, patience: float = SHORT) -> Iterator[Job]:
        """Hold the folder's lock while its outputs are written. The kernel releases the lock of a dead owner.

        Args:
            patience: seconds to wait for the lock; not zero, because `make status` checks a lock by taking it briefly.

        Raises:
            ValueError: when another live process is making the same stage, or the disk is full or read-only.
        """
        with explaining_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path, patience):
                with (self.path / LOCK).open("a") as starts:
                    starts.write("x")  # one character per start: the file size counts them
                self.job.write()
                yield self.job

    def wait(self) -> None:
        """Wait until no other process makes the stage."""
        if (self.path / LOCK).exists():
            with explaining_disk_errors(self.path), locked(self.path, math.inf):
                pass

    def seal(self, seconds: float, facts: dict | None = None) -> None:
        """Write the manifest, last and atomically, to mark the stage complete. `facts` must not contain secrets."""
        manifest = {
            "stage": f"{self.job.kind}/{self.path.name}",
            "key": self.job.key,
            "settings": self.job.settings,
            "inputs": _in_runs(self.job.inputs),
            "outputs": output_hashes(self.path),
            "facts": facts or {},
            "seconds": round(seconds, 3),  # of the last start
            "starts": (self.path / LOCK).stat().st_size,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": commit(),
            "code": recipe_code(self.job.kind),
            "packages": packages(),
            "hardware": hardware(),
            "python": platform.python_version(),
            "threads": threads(),
        }
        write_json(self.path / MANIFEST, manifest | {"sha256": _own_hash(manifest)})
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)  # as large as several models, and no longer needed

    def break_seal(self) -> None:
        """Mark the stage as unfinished and delete each output that differs from the manifest, so that no rerun uses it.

        The caller must hold the lock (`being_made`). If the manifest itself was edited, no output can be trusted, and
        all are deleted.
        """
        try:
            manifest = read_manifest(self.path)
        except Damaged:
            manifest = {}
        trusted = manifest["outputs"] if manifest and manifest.get("sha256") == _own_hash(manifest) else {}
        for name, actual in output_hashes(self.path).items():
            if trusted.get(name) != actual:
                (self.path / name).unlink()
        (self.path / MANIFEST).unlink()


class Stopped(Exception):
    """A stage was asked to stop before it was complete; the same command resumes it from what is saved."""


class Damaged(ValueError):
    """A folder is not sealed, or does not match its manifest."""


def read_manifest(path: Path) -> dict:
    """The manifest of a sealed stage folder.

    Raises:
        Damaged: when the folder is not sealed, or its manifest is not one.
    """
    if not (path / MANIFEST).exists():
        raise Damaged(f"{path} is not complete; run its stage first")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        check_keys(path / MANIFEST, manifest, MANIFEST_KEYS, "its stage must run again")
    except OSError as error:
        raise Damaged(f"{path / MANIFEST} cannot be read: {os_remedy(error)}") from error
    except KeysMissing as error:
        raise Damaged(str(error)) from error
    except ValueError:
        raise Damaged(f"{path / MANIFEST} was edited (it is not valid JSON); its stage must run again") from None
    return manifest


def verify(path: Path) -> None:
    """Compare every output of a sealed folder with its manifest, and the manifest with its own hash.

    Raises:
        Damaged: names the first file that is missing, changed or added.
    """
    manifest = read_manifest(path)
    if manifest.get("sha256") != _own_hash(manifest):
        raise Damaged(f"{path / MANIFEST} was edited (its own sha256 differs); its stage must run again")
    expected, actual = manifest["outputs"], output_hashes(path)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise Damaged(f"{path / name} does not match its manifest (sha256 differs); its stage must run again")


def _own_hash(manifest: dict) -> str:
    text = json.dumps({name: value for name, value in manifest.items() if name != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def output_hashes(path: Path) -> dict[str, str]:
    """sha256 of every output, by its path in the folder."""
    return {str(p.relative_to(path)): file_hash(p) for p in output_files(path)}


def output_files(path: Path) -> list[Path]:
    """Files that count as outputs: all but the manifest, logs, progress, checkpoints and hidden files."""
    excluded = {MANIFEST, "stage.json", "progress.json", "log.txt", ERROR, "not_finite.json"}
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name not in excluded)
    return [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never a partial one."""
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
