"""Our start models and training runs beside the first author's own, with a verdict by the rule in eval/verdicts.yaml.

    reference: mean log-probs of the start model on the author's evaluation rows, by candidate for the lengths
    run: loss, reward accuracy, margin and log-probs at the steps of the author's evaluations

A loss is the mean over all test pairs, everything else is over the part of them that the author's cards are of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from focalpo.reporting.blocks import Block
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.verdicts import DIFFERS, REPRODUCED, Rule
from focalpo.stages.author_runs import END, AuthorRun, author_runs
from focalpo.stages.folder import read_manifest
from focalpo.stages.metrics import NONE
from focalpo.stages.reading import read_json
from focalpo.stages.records import PairState, read_json_lines, read_records

QUANTITIES = {
    "loss": "evaluation loss",
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
    "logps_chosen": "log-prob of chosen",
    "logps_rejected": "log-prob of rejected",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison: of what, at which step, our number (None: not there), the author's, and the verdict."""

    what: str
    step: str
    quantity: str
    ours: float | None
    author: float
    verdict: str


def reference_lines(facts: Mapping[str, Any], anchor: Mapping[str, Any], rule: Rule) -> list[Line]:
    """The start model's log-probs beside the author's, by candidate for the lengths, the closest first."""
    lines = []
    for name in by_distance(facts["measured"], anchor):
        prompt, longest = anchor["lengths"][name]
        what = f"{anchor['name']}, lengths {prompt}/{longest}"
        for branch in ("chosen", "rejected"):
            ours, author = facts["measured"][name][branch], anchor[branch]
            verdict = _within(ours, author, rule.anchors["reference"])
            lines.append(Line(what, "start", QUANTITIES[f"logps_{branch}"], ours, author, verdict))
    return lines


def by_distance(measured: Mapping[str, Any], anchor: Mapping[str, Any]) -> list[str]:
    """The names of the candidates, the closest to the author's log-probs first."""

    def distance(name: str) -> float:
        return max(abs(measured[name][branch] - anchor[branch]) for branch in ("chosen", "rejected"))

    return sorted(measured, key=distance)


def fitting(measured: Mapping[str, Any], anchor: Mapping[str, Any], rule: Rule) -> str | None:
    """The candidate for the lengths that gives the author's log-probs; None if none does."""
    closest = by_distance(measured, anchor)[0]
    lines = [abs(measured[closest][branch] - anchor[branch]) for branch in ("chosen", "rejected")]
    return closest if max(lines) <= rule.anchors["reference"] else None


@dataclass(frozen=True, slots=True)
class Curve:
    """A training of ours that repeats a run of the author's: our evaluations by step, and theirs."""

    title: str
    name: str
    ours: Mapping[int, Mapping[str, float]]
    run: AuthorRun


def curve_of(title: str, train: Path, anchors: Path) -> Curve | None:
    """The evaluations of a training stage; None where the author had no such run, or ours was not evaluated."""
    settings, anchor = read_manifest(train)["settings"], read_manifest(anchors)["settings"]["anchor"]
    name = author_runs().run_of(anchor["name"], settings["objective"], settings["train"])
    if name is None or "lora" in settings or not (train / "evaluation.jsonl").is_file():
        return None
    ids = set(read_json(anchors / "rows.json", "remove its stage and run again")["ids"])
    states = [each for each in read_records(train / "dynamics.parquet", PairState) if each.split == "test"]
    losses = {row["step"]: row["loss"] for row in read_json_lines(train / "evaluation.jsonl")}
    found = subset_means([each for each in states if each.id in ids], settings["objective"]["beta"])
    ours = {step: {"loss": losses[step]} | found[step] for step in sorted(losses.keys() & found.keys())}
    return Curve(title, name, ours, author_runs().runs[name])


def subset_means(states: Sequence[PairState], beta: float) -> dict[int, dict[str, float]]:
    """Means over pairs by step: rewards are beta times what log-probs gained since step 0."""
    start = {each.id: each for each in states if each.step == 0}
    found = {}
    for step in sorted({each.step for each in states}):
        now = [each for each in states if each.step == step]
        chosen, rejected = (np.array([getattr(each, side) for each in now]) for side in ("chosen", "rejected"))
        before = [np.array([getattr(start[each.id], side) for each in now]) for side in ("chosen", "rejected")]
        margin = beta * ((chosen - before[0]) - (rejected - before[1]))
        # As the author's trainer counts: a tie is wrong.
        values = {
            "reward_accuracy": margin > 0,
            "reward_margin": margin,
            "logps_chosen": chosen,
            "logps_rejected": rejected,
        }
        found[step] = {name: float(np.mean(value)) for name, value in values.items()}
    return found


def run_lines(curve: Curve, rule: Rule) -> list[Line]:
    """Each number of the author's evaluations beside ours at the same step; the last beside our last."""
    anchor = author_runs().anchors[curve.run.anchor]
    lines = []
    for theirs in curve.run.evaluations:
        step = max(curve.ours) if theirs.step == END else theirs.step
        for name, quantity in QUANTITIES.items():
            author = getattr(theirs, name)
            if author is None:
                continue
            ours = curve.ours.get(step, {}).get(name)
            verdict = "not evaluated" if ours is None else _within(ours, author, _tolerance(name, author, anchor, rule))
            shown = f"end ({step})" if theirs.step == END else str(step)
            lines.append(Line(f"{curve.title}: {curve.name}", shown, quantity, ours, author, verdict))
    return lines


def author_curves(run: TableRun) -> list[Curve]:
    """The trainings of a report that repeat a run of the author's."""
    found = []
    for setting, label in run.settings.items():
        if f"anchors/{setting}" in run.inputs:
            for row, shown in run.rows.items():
                for seed, train in run.seeds(setting, row, "train").items():
                    found.append(curve_of(f"{label}, {shown}, seed {seed}", train, run.inputs[f"anchors/{setting}"]))
    return [curve for curve in found if curve is not None]


def author_block(run: TableRun, curves: Sequence[Curve], rule: Rule) -> Block:
    """The report's section: start models, then trainings; without rows where the author had none of them."""
    folders = dict.fromkeys(path for name, path in run.inputs.items() if name.startswith("anchors/"))
    manifests = [read_manifest(folder) for folder in folders]
    lines = [line for each in manifests for line in reference_lines(each["facts"], each["settings"]["anchor"], rule)]
    lines += [line for curve in curves for line in run_lines(curve, rule)]
    body = [[line.what, line.step, line.quantity, shown(line.ours), shown(line.author), line.verdict] for line in lines]
    return Block("against the author's own runs", ("step", "quantity", "ours", "author", "verdict"), body)


def shown(value: float | None) -> str:
    """A number with the four decimals of the author's cards."""
    return NONE if value is None else f"{value:.4f}"


def _tolerance(name: str, author: float, anchor: Any, rule: Rule) -> float:
    """How far ours may be from the author's: a share of what training changed, and the reference's own tolerance."""
    limits = rule.anchors
    if name == "loss":
        return limits["loss"]
    if name == "reward_accuracy":
        return limits["accuracy"]
    if name == "reward_margin":
        return limits["share"] * abs(author) + author_runs().beta * limits["reference"]
    return limits["share"] * abs(author - getattr(anchor, name.removeprefix("logps_"))) + limits["reference"]


def _within(ours: float, author: float, tolerance: float) -> str:
    return REPRODUCED if abs(ours - author) <= tolerance + 1e-12 else DIFFERS
