"""What is reported when stages are made again, or are sealed, by other code or another judge than before."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from focalpo.stages.code import recipe_code
from focalpo.stages.folder import MANIFEST, Damaged, Folder, Stage, read_manifest
from focalpo.stages.origin import commit, short


def changed_code(runs: Path, waiting: Sequence[Stage], sealed: Sequence[Stage]) -> list[str]:
    """A line each for stages that are judged again, stages of changed code, and sealed stages of other code."""
    kinds = {stage.kind for stage in waiting}
    kept = {kind: list(_manifests(path.parent for path in (runs / kind).glob(f"*/{MANIFEST}"))) for kind in kinds}
    lines = []
    if judged := _differing(kept, waiting, "judge"):
        title, manifest = next(iter(judged.items()))
        before = manifest["settings"]["judge"]
        lines.append(
            f"{_count(judged)} judged again, because the judge is another: {title}, judged before by {before!r}"
            f"{_more(judged)}; if it is the same judge at another address, keep its scores by judge.name={before!r}"
        )
    if remade := _differing(kept, waiting, "code"):
        title, manifest = next(iter(remade.items()))
        lines.append(
            f"{_count(remade)} made again, because code that their keys depend on has changed: {title}, made before at "
            f"commit {short(manifest['commit'])} as {manifest['stage']}{_more(remade)}; the old folders are kept"
        )
    if other := [each for each in _manifests(Folder(runs, stage).path for stage in sealed) if not _current(each)]:
        titles = [manifest["stage"] for manifest in other]
        lines.append(
            f"{_count(titles)} sealed by other code than this: {titles[0]}, at commit {short(other[0]['commit'])}"
            f"{_more(titles)}; if the change matters: make again STAGE={titles[0]}"
        )
    return lines


def _differing(kept: dict[str, list[dict]], waiting: Sequence[Stage], name: str) -> dict[str, dict]:
    """Stages of which one that differs in this setting alone is sealed, with its newest manifest.

    Settings that the old one did not have yet are no difference.
    """
    found: dict[str, dict] = {}
    for stage in waiting:
        for old in sorted(kept[stage.kind], key=lambda manifest: manifest.get("finished", "")):
            settings = old["settings"]
            same = all(stage.settings.get(each) == value for each, value in settings.items() if each != name)
            differs = name in stage.settings and settings.get(name) != stage.settings[name]
            if same and differs and _label(old) == stage.name and (name == "code" or name in settings):
                found[stage.title] = old
    return found


def _manifests(folders: Iterable[Path]) -> Iterator[dict]:
    for folder in folders:
        with contextlib.suppress(Damaged):  # its stage runs again in any case
            yield read_manifest(folder)


def _label(manifest: dict) -> str:
    return manifest["stage"].partition("/")[2].rpartition("-")[0]


def _current(manifest: dict) -> bool:
    made = manifest.get("commit", "unknown")
    known = made == commit() and made != "unknown" and "+" not in made
    return known or manifest.get("code") == recipe_code(manifest["stage"].partition("/")[0])


def _count(stages: Sequence[str] | dict) -> str:
    return f"{len(stages)} stages are" if len(stages) > 1 else "1 stage is"


def _more(stages: Sequence[str] | dict) -> str:
    return f", and {len(stages) - 1} more" if len(stages) > 1 else ""
