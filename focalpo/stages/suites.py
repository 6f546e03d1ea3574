"""The suites of eval/capability.yaml: which of lm-eval's tasks become columns, and how. Needs no lm-eval."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from focalpo.stages.folder import file_hash
from focalpo.stages.origin import ROOT
from focalpo.stages.reading import check_keys, read_yaml

EVAL = ROOT / "eval"
OWN = EVAL / "capability"
"""Tasks of our own, in lm-eval's format."""
FIX = "correct it"


@dataclass(frozen=True, slots=True)
class Task:
    """A column: a task or group of lm-eval, its shots, the metric of a document and the filter of its answer."""

    label: str
    task: str
    shots: int
    metric: str
    filter: str
    dataset: str | None


def suites() -> dict[str, dict[str, Task]]:
    """Every suite's tasks by the name of their column.

    Raises:
        ValueError: when the file is damaged.
    """
    return _read()[1]


def lm_eval_version() -> str:
    """The version of lm-eval that the suites are written for."""
    return _read()[0]


def own_files(task: Task) -> dict[str, str]:
    """sha256 of the files of a task of our own, by name; none for a task that lm-eval brings."""
    return {path.name: file_hash(path) for path in sorted(OWN.glob(f"{task.task}.*"))}


@cache
def _read(file: Path = EVAL / "capability.yaml") -> tuple[str, dict[str, dict[str, Task]]]:
    values = read_yaml(file, FIX)
    check_keys(file, values, {"lm_eval": str, "suites": dict}, FIX)
    found: dict[str, dict[str, Task]] = {}
    for name, tasks in values["suites"].items():
        for column, task in tasks.items():
            if not isinstance(task, dict) or task.keys() != {field.name for field in fields(Task)}:
                keys = ", ".join(field.name for field in fields(Task))
                raise ValueError(f"{file}: suites.{name}.{column} must have exactly the keys {keys}; {FIX}")
        found[name] = {column: Task(**task) for column, task in tasks.items()}
    return values["lm_eval"], found
