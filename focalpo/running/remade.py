"""What a user is told about code that has changed since stages were made."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from focalpo.stages.code import recipe_code
from focalpo.stages.folder import MANIFEST, Damaged, Folder, Stage, read_manifest
from focalpo.stages.origin import commit, short


def changed_code(runs: Path, waiting: Sequence[Stage], sealed: Sequence[Stage]) -> list[str]:
    """At most two lines: stages that are made again since code of their key changed, and sealed ones of other code."""
    old = {stage.title: found for stage in waiting if "code" in stage.settings for found in _before(runs, stage)}
    found = _manifests(Folder(runs, stage).path for stage in sealed)
    other = [manifest for manifest in found if not _current(manifest)]
    lines = []
    if old:
        title, manifest = next(iter(old.items()))
        lines.append(
            f"{_count(old)} made again, because code that their keys depend on has changed: {title}, made before at "
            f"commit {short(manifest['commit'])} as {manifest['stage']}{_more(old)}; the old folders are kept"
        )
    if other:
        titles = [manifest["stage"] for manifest in other]
        lines.append(
            f"{_count(titles)} sealed by other code than this: {titles[0]}, at commit {short(other[0]['commit'])}"
            f"{_more(titles)}; if the change matters: make again STAGE={titles[0]}"
        )
    return lines


def _before(runs: Path, stage: Stage) -> list[dict]:
    """The newest manifest of the same stage by other code, if any: settings that are new here are no difference."""
    found = []
    for old in _manifests(path.parent for path in (runs / stage.kind).glob(f"*/{MANIFEST}")):
        same = all(stage.settings.get(name) == value for name, value in old["settings"].items() if name != "code")
        if same and old["settings"].get("code") != stage.settings["code"] and _label(old) == stage.name:
            found.append(old)
    return sorted(found, key=lambda manifest: manifest.get("finished", ""))[-1:]


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
