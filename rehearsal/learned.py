"""What the rows of a rehearsed table learned, and that no row is its start, another row, or another row's training.

    report --sealed folders--> one Learned per model --> faults, one line each; a line per row for the terminal

Swapped rows show where they can be seen from outside: a stage was trained with another objective or learning rate than
its row's configuration holds, or with an objective that is not the one its row is named after. That the objective of a
name is the loss of that name is for the tests of the losses.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from focalpo.config.compose import plain
from focalpo.config.schema import Config, TableConfig
from focalpo.planning.table import loss_names
from focalpo.reporting.table_run import TableRun
from focalpo.stages.folder import Job, read_manifest
from focalpo.stages.records import Completion, read_json_lines, read_records

Place = tuple[str, str, str]
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Training:
    """How a model was trained, as its stage records it: the start's weights, the objective and its options, the
    configured and the highest learning rate, and the mean margin gained on the training pairs in nats."""

    start: Weights
    objective: dict
    learning_rate: float
    highest_rate: float
    margin: float


@dataclass(frozen=True, slots=True)
class Learned:
    """A model of the table: setting, row and seed, its exported weights, its answers by benchmark and question."""

    place: Place
    weights: Weights
    answers: dict[tuple[str, str], str]
    training: Training | None

    @property
    def name(self) -> str:
        return "/".join(self.place)

    def beside(self, rows: list["Learned"]) -> list["Learned"]:
        """The other models of its setting and seed."""
        return [row for row in rows if row is not self and row.place[::2] == self.place[::2]]

    def differing(self, other: "Learned") -> int:
        """Number of questions that the two answer differently."""
        return sum(text != other.answers.get(question) for question, text in self.answers.items())


def learned(run: TableRun, hub: Path) -> list[Learned]:
    """The models of a table, row by row; `hub` is the folder of the stand-ins' repositories."""
    found = []
    for setting in run.settings:
        for row in run.rows:
            trained = run.seeds(setting, row, "train")
            for seed, generate in run.seeds(setting, row, "generate").items():
                weights = _weights(_source(generate, hub))
                training = _training(trained[seed], hub) if seed in trained else None
                found.append(Learned((setting, row, seed), weights, _answers(generate), training))
    return found


def faults(rows: list[Learned], table: TableConfig, paper: Mapping[tuple[str, str], Config]) -> list[str]:
    """One line for each row that learned nothing, equals another one, or was not trained as its row says.

    `paper[setting, row]` is the configuration that was rehearsed.
    """
    found = []
    for row in rows:
        setting, name, _ = row.place
        if table.rows[name].trained:
            expected = table.rows[name].experiment or name
            found += [f"{row.name} {fault}" for fault in _faults_of(row, expected, paper[setting, name])]
    for one, other in combinations(rows, 2):
        if other not in one.beside(rows):
            continue
        if not changed(other.weights, one.weights):
            found.append(f"{one.name} and {other.name} have the same weights")
        elif not one.differing(other):
            found.append(f"{one.name} and {other.name} give the same {len(one.answers)} answers")
    return found


def _faults_of(row: Learned, expected: str, config: Config) -> Iterator[str]:
    training = row.training
    if training is None:
        yield "was not trained"
        return
    if not changed(row.weights, training.start):
        yield "has the weights of its start: training had no effect"
    name = training.objective["name"]
    if expected in loss_names() and name != expected:
        yield f"was trained with the objective {name}"
    elif training.objective != plain(config.objective):
        yield f"was trained with {training.objective}, its row has {plain(config.objective)}"
    rates = {"was configured with": training.learning_rate, "reached": training.highest_rate}
    for how, rate in rates.items():
        if not math.isclose(rate, config.train.learning_rate, rel_tol=1e-9):
            yield f"{how} the learning rate {rate:g}, its row has {config.train.learning_rate:g}"


def described_rows(rows: list[Learned]) -> str:
    """Format what each trained row learned, one line per row."""
    lines = []
    for row in rows:
        if row.training is None:
            continue
        shown = [f"{changed(row.weights, row.training.start):6.1%} of the weights changed"]
        shown.append(f"margin {row.training.margin:+6.1f} nats")
        if nearest := min(row.beside(rows), key=row.differing, default=None):
            of_all = f"{row.differing(nearest)} of {len(row.answers)} answers"
            shown.append(f"{of_all} differ from those of {nearest.place[1]}, the nearest row")
        lines.append(f"  learned   {row.name:32} {', '.join(shown)}")
    return "\n".join(lines)


def changed(weights: Weights, start: Weights) -> float:
    """Share of the numbers that differ; a tensor that only one of the two holds differs as a whole."""
    differing = total = 0
    for name in weights.keys() | start.keys():
        found = [held[name] for held in (weights, start) if name in held]
        comparable = len(found) == 2 and found[0].shape == found[1].shape
        differing += int(torch.ne(*found).sum()) if comparable else found[0].numel()
        total += found[0].numel()
    return differing / total


def _training(stage: Path, hub: Path) -> Training:
    settings = Job.read(stage).settings
    return Training(
        _weights(_source(stage, hub)),
        settings["objective"],
        settings["train"]["learning_rate"],
        max(line["learning_rate"] for line in read_json_lines(stage / "metrics.jsonl")),
        read_manifest(stage)["facts"]["train"]["margin"],
    )


def _source(stage: Path, hub: Path) -> Path:
    """The folder of the model that a stage read: that of its input stage, or the stand-in's under its hub id."""
    job = Job.read(stage)
    return job.inputs["model"] / "model" if "model" in job.inputs else hub / "models" / job.settings["model"]["path"]


def _weights(folder: Path) -> Weights:
    files = sorted(folder.glob("*.safetensors"))
    return {name: weight for file in files for name, weight in load_file(file).items()}


def _answers(generate: Path) -> dict[tuple[str, str], str]:
    sets = Job.read(generate).settings["sets"]
    return {
        (name, answer.id): answer.text
        for name in sets
        for answer in read_records(generate / f"{name}.parquet", Completion)
    }
