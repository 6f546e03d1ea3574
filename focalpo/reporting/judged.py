"""Who judged the numbers of a table: model, protocol, baseline and hash, and how far it repeats itself.

judge/<name>-<key>/manifest.json --> Judged, once for every protocol and judge that the folders differ in
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from focalpo.stages.folder import read_manifest


@dataclass(frozen=True, slots=True)
class Judged:
    """Who judged one set of completions, under which protocol; `others` answered and were not asked for.

    `repeated` sentinel verdicts were given again, after the judge's first run: `changed` of them with another winner,
    and `moved` is the sum of the results' changes, each in [0, 1].
    """

    source: str
    title: str
    protocol: str
    hash: str
    model: str
    judge: str
    baseline: str
    others: tuple[str, ...]
    repeated: int = 0
    changed: float = 0.0
    moved: float = 0.0

    @property
    def by(self) -> str:
        """The model, where it answered, and what else it called itself there."""
        other = f", which calls itself {' and '.join(self.others)}" if self.others else ""
        return f"{self.model} at {self.judge}{other}"

    def __str__(self) -> str:
        text = (
            f"{self.title}: judged by {self.by}, against {self.baseline}; protocol {self.protocol}, hash {self.hash}."
        )
        if not self.repeated:
            return text
        changed, moved = (100 * part / self.repeated for part in (self.changed, self.moved))
        return (
            f"{text} Repeat noise: of {self.repeated} sentinel verdicts given again, {changed:.1f}% have another "
            f"winner; they moved {moved:.1f} points on average."
        )


def other_models(facts: Mapping[str, Any]) -> list[str]:
    """The models that a judge stage's replies name and no protocol asked for; a dated version of one was asked for."""
    asked = [each["model"] for each in facts.get("judged_by", {}).values()]
    return [model for model in facts.get("served", []) if asked and not any(_is_version(model, name) for name in asked)]


def _is_version(model: str, name: str) -> bool:
    """Whether a served model is the named one, or its version of a day: gpt-4.1-2025-04-14, but not gpt-4.1-mini."""
    return re.fullmatch(rf"{re.escape(name)}(-[\d-]+)?", model) is not None


def judged_by(folders: Sequence[Path]) -> tuple[Judged, ...]:
    """Who judged in these judge stages, each once, in the order of the folders."""
    found: dict[Judged, Judged] = {}
    for folder in folders:
        for each in _judged(folder):
            who = replace(each, repeated=0, changed=0.0, moved=0.0)
            before = found.get(who, who)
            found[who] = replace(
                who,
                repeated=before.repeated + each.repeated,
                changed=before.changed + each.changed,
                moved=before.moved + each.moved,
            )
    return tuple(found.values())


def _judged(folder: Path) -> Iterator[Judged]:
    manifest = read_manifest(folder)
    settings, facts = manifest["settings"], manifest["facts"]
    for source, protocol in settings["protocols"].items():
        drift = facts.get("sentinel", {}).get(source, {"first": True})
        repeated = 0 if drift["first"] else drift["verdicts"]
        yield Judged(
            source=source,
            protocol=protocol["protocol"],
            hash=protocol["hash"],
            judge=settings["judge"],
            others=tuple(other_models(facts)),
            repeated=repeated,
            changed=repeated and repeated * drift["changed"],
            moved=repeated and repeated * drift["moved"],
            **facts["judged_by"][source],
        )
