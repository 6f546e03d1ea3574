"""Set sealed stages aside, so that the next run makes them again: make again STAGE=train/base-dpo-s1-0123456789ab

python -m recipes.again STAGE...                a stage as KIND/NAME-KEY, or KIND/NAME if only one has it
python -m recipes.again STAGE... runs=FOLDER

A stage is moved to RUNS/.again/KIND/; nothing is deleted. What was made from it keeps its seal, and is listed.
"""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from focalpo.config.mistakes import Mistake
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.folder import MANIFEST, Damaged, Folder, read_manifest


def again(arguments: list[str]) -> None:
    """Move the named stages aside and print what was made from them.

    Raises:
        ValueError: when a stage is not named, not found, not sealed, or being made.
    """
    names, keys = words_of("again", arguments)
    runs = Path(keys.get("runs", "runs"))
    for folder in [found_in(runs, name) for name in names]:
        others = made_from(runs, folder)
        with Folder.at(folder).being_made():  # not while it is made, or its outputs are removed for being damaged
            aside = _place_aside(runs / ".again" / folder.parent.name / folder.name)
            aside.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(aside)
        print(f"{folder.parent.name}/{folder.name} is in {aside}; the next run makes it again")
        if others:
            print(f"made from it, and still sealed; name them too if they must follow: {' '.join(others)}")


def _place_aside(first: Path) -> Path:
    """A path that nothing has: what was set aside before stays, as replies that were paid for."""
    later = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], later) if not path.exists())


def found_in(runs: Path, name: str) -> Path:
    """The sealed folder of a stage given as KIND/NAME-KEY, as KIND/NAME, or as a path below `runs`.

    Raises:
        ValueError: when no stage, or more than one, has that name, or it is not sealed.
    """
    kind, _, label = name.rstrip("/").removeprefix(f"{runs}/").rpartition("/")
    folders = [
        path for path in (runs / Path(kind).name).glob("*") if label in (path.name, path.name.rpartition("-")[0])
    ]
    if not kind or not folders:
        raise Mistake(f"{runs} has no stage {name!r}; write it as KIND/NAME-KEY, as make why and the folder show it")
    if len(folders) > 1:
        raise Mistake(f"{name} may be {', '.join(sorted(path.name for path in folders))}; name one with its key")
    read_manifest(folders[0])
    return folders[0]


def made_from(runs: Path, folder: Path) -> list[str]:
    """The sealed stages that a stage is an input of, directly or through others, by KIND/NAME-KEY."""
    inputs = {m["stage"]: set(m["inputs"].values()) for m in _manifests(runs)}
    found, new = set(), {f"{folder.parent.name}/{folder.name}"}
    while new:
        new = {title for title, needed in inputs.items() if needed & new} - found
        found |= new
    return sorted(found)


def _manifests(runs: Path) -> Iterator[dict]:
    for path in runs.glob(f"[!.]*/*/{MANIFEST}"):
        with contextlib.suppress(Damaged):  # its stage runs again in any case
            yield read_manifest(path.parent)


if __name__ == "__main__":
    run_command(lambda: again(sys.argv[1:]))
