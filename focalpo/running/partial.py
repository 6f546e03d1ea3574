"""The table of the rows that succeeded, made by a Slurm job when others have failed, as a local run does."""

from collections.abc import Callable
from pathlib import Path

from focalpo.stages.folder import ERROR, MANIFEST, Folder

PARTIAL = ("report", "duels", "sweep")
"""Kinds that are made of whatever succeeded."""
SHARED = ("benchmark/", "anchors/")
"""Inputs of a report that are of a setting, not of a run: benchmark/SETTING/NAME, anchors/SETTING."""


def make_of_sealed(folder: Folder, make: Callable[[Folder], object]) -> None:
    """Make a stage; a report whose inputs are not all sealed is made of the complete runs, in a folder of its own.

    Raises:
        ValueError: when runs were left out, with their names and the folder of the rest.
    """
    job = folder.job
    sealed = {name: (path / MANIFEST).is_file() for name, path in job.inputs.items()}
    if job.kind not in PARTIAL or all(sealed.values()):
        make(folder)
        return
    kept = complete(sealed)
    failed = ", ".join(dict.fromkeys(run_of(name) for name, found in sealed.items() if not found))
    again = "run the command that submitted this job again"
    if not kept:
        raise _told(folder.path, f"no run is complete, these failed: {failed}; make status says why, then {again}")
    part = job.of(kept)
    part.path.mkdir(parents=True, exist_ok=True)
    part.write()
    make(Folder.at(part.path))
    raise _told(folder.path, f"{part.path} has the others, these failed: {failed}; make status says why, then {again}")


def complete(sealed: dict[str, bool]) -> set[str]:
    """The names of the inputs of complete runs.

    A run is SETTING/ROW/SEED, with an input of each kind, or a point of a search. What is SHARED is kept with the runs
    of its setting.
    """
    runs: dict[str, bool] = {}
    for name, found in sealed.items():
        runs[run_of(name)] = runs.get(run_of(name), True) and found
    settings = {run.partition("/")[0] for run, found in runs.items() if found and not run.startswith(SHARED)}
    return {
        name
        for name in sealed
        if runs[run_of(name)] and (not name.startswith(SHARED) or name.split("/")[1] in settings)
    }


def run_of(name: str) -> str:
    """The run that an input belongs to: base/dpo/1 of base/dpo/1/judge; what is shared stands for itself."""
    return name if name.startswith(SHARED) else name.rpartition("/")[0] or name


def _told(path: Path, reason: str) -> ValueError:
    (path / ERROR).write_text(f"{reason}\n")
    return ValueError(reason)
