"""What FocalPO's first author trained, from the cards of those runs: eval/author_runs.yaml. Needs no torch.

anchor: a start model, its data, and its mean log-probs on part of the test split, before any training
run: gamma, learning rate and epochs of one training from an anchor, and its evaluations
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from focalpo.stages.folder import read_manifest
from focalpo.stages.origin import ROOT
from focalpo.stages.reading import check_keys, read_yaml

FILE = ROOT / "eval" / "author_runs.yaml"
FIX = "correct it, or restore it from the checkout"
END = 0
"""The step of a run's last evaluation, in the file."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Mean log-probs (nats) of a start model; `data` names the sets that may be meant, `rows` those of its test split.

    `lengths` are candidates of (max_prompt_length, max_length) by name, for the cards do not name them.
    """

    start: str
    data: list[str]
    rows: int
    chosen: float
    rejected: float
    lengths: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run at a step, or END; `loss` is the mean of all test rows, the rest of the subset's."""

    step: int
    loss: float
    reward_chosen: float | None
    reward_rejected: float | None
    reward_accuracy: float
    reward_margin: float
    logps_chosen: float | None
    logps_rejected: float | None


@dataclass(frozen=True, slots=True)
class AuthorRun:
    """A training of the author's; gamma 0 is DPO."""

    anchor: str
    gamma: float
    learning_rate: float
    epochs: int
    evaluations: list[Evaluation]


@dataclass(frozen=True, slots=True)
class AuthorRuns:
    """The whole file; `recipe` holds the training settings of all runs, `subset` says which rows of the test split the
    rewards and log-probs of a card are of."""

    source: str
    trainer: str
    beta: float
    recipe: dict[str, Any]
    subset: dict[str, int]
    anchors: dict[str, Anchor]
    runs: dict[str, AuthorRun]

    def in_subset(self, row: int) -> bool:
        """Whether a row of the test split, counted from 0, is evaluated by the first process."""
        return row // self.subset["batch"] % self.subset["processes"] == 0

    def anchor_of(self, start: str | None, data: str | None) -> str | None:
        """The name of the anchor of a start model and a data set, if the author had both."""
        return next((name for name, each in self.anchors.items() if start == each.start and data in each.data), None)

    def run_of(self, anchor: str, objective: Mapping[str, Any], train: Mapping[str, Any]) -> str | None:
        """The name of the author's run that a training repeats, by its loss, learning rate, epochs and the recipe."""
        if any(train.get(name) != value for name, value in self.recipe.items()):
            return None
        if objective["name"] not in ("dpo", "focalpo") or objective["beta"] != self.beta:
            return None
        gamma = objective["gamma"] if objective["name"] == "focalpo" else 0.0
        if gamma and objective["detach_factor"]:
            return None
        wanted = (anchor, gamma, train["learning_rate"], train["epochs"])
        runs = self.runs.items()
        return next((n for n, r in runs if (r.anchor, r.gamma, r.learning_rate, r.epochs) == wanted), None)


@cache
def author_runs(file: Path = FILE) -> AuthorRuns:
    """Read the file.

    Raises:
        ValueError: when it is damaged.
    """
    values = read_yaml(file, FIX)
    kinds: dict[str, type] = dict.fromkeys(("recipe", "subset", "anchors", "runs"), dict)
    kinds |= {"source": str, "trainer": str, "beta": float}
    check_keys(file, values, kinds, FIX)
    anchors = {name: _made(Anchor, each, f"{file}: anchors.{name}") for name, each in values["anchors"].items()}
    runs = {}
    for name, each in values["runs"].items():
        lines = each["evaluations"]
        if any(len(line) != len(fields(Evaluation)) for line in lines):
            raise ValueError(f"{file}: an evaluation of runs.{name} has too many or too few numbers; {FIX}")
        found = each | {"evaluations": [Evaluation(*line) for line in lines]}
        runs[name] = _made(AuthorRun, found, f"{file}: runs.{name}")
    return AuthorRuns(**values | {"anchors": anchors, "runs": runs})


def must_fit(anchors: Path) -> None:
    """Refuse to train from a start model whose log-probs are not the author's, by a sealed anchors stage.

    Raises:
        ValueError: with ours and the author's.
    """
    if misfit := read_manifest(anchors)["facts"]["misfit"]:
        raise ValueError(f"{misfit}; to train from it all the same: reference.must_fit=false")


def _made(shape: Any, values: dict, where: str) -> Any:
    names = {field.name for field in fields(shape)}
    if values.keys() != names:
        raise ValueError(f"{where} must have exactly the keys {', '.join(sorted(names))}; {FIX}")
    return shape(**values)
