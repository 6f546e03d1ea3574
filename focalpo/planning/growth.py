"""What the training of a table costs as it grows: more pairs, longer ones, more rows, more ranks. Estimates of the cost
model, but for the rate of a rank where trainings of the table are sealed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from focalpo.config.compose import CONF
from focalpo.planning.lengths import Lengths
from focalpo.planning.needs import Estimate, answers_of
from focalpo.planning.ranks import ranks_of
from focalpo.planning.table import Planned
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.stages.reading import read_yaml
from focalpo.training.packing import deal, imbalance

TIMES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What is varied, relative to what the table has."""
BATCHES = 20
"""Global batches that are dealt to ranks."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Hours of a table's trainings, one after another, with `times` as much of what is on the axis, which is `value`;
    and the source of the rate."""

    scale: str
    axis: str
    times: float
    value: float
    hours: float
    rate: str


def costs(plan: Planned) -> list[Cost]:
    """What the trainings of a table cost on each axis. They take their turns, each on all its ranks.

    Raises:
        ValueError: when the table trains nothing.
    """
    trainings = [
        (Estimate(plan.configs[setting, name], plan.runs), row.train)
        for (setting, name, _), row in plan.rows.items()
        if row.train is not None and row.train.kind == "train"
    ]
    if not trainings:
        raise ValueError(f"the {plan.table.scale} table trains nothing; choose another one")
    rate, source = _rate(trainings, plan.first.launch.gpus)

    def hours(chosen: Sequence[tuple[Estimate, Stage]], ranks: int | None = None) -> float:
        each = (e.training(s) / (ranks or ranks_of(s)) * _waiting(e, s, ranks or ranks_of(s)) for e, s in chosen)
        return sum(each) / rate / 3600

    def points() -> Iterator[tuple[str, float, float, float]]:
        first, stage = trainings[0]
        whole, ranks, data = hours(trainings), ranks_of(stage), {id(e): e.data for e, _ in trainings}
        for times in TIMES:
            yield "pairs", times, times * first.pairs(stage), times * whole
            for each, _ in trainings:
                each.data = data[id(each)] | {name: times * data[id(each)][name] for name in ("prompt", "answer")}
            yield "tokens of a pair", times, first.data["prompt"] + 2 * first.data["answer"], hours(trainings)
            for each, _ in trainings:
                each.data = data[id(each)]
            yield "trainings", times, times * len(trainings), times * whole
            if times * ranks >= 1 and stage.settings["train"]["global_batch"] >= times * ranks:
                yield "ranks", times, times * ranks, hours(trainings, round(times * ranks))

    return [Cost(plan.table.scale, *point, source) for point in points()]


def _rate(trainings: Sequence[tuple[Estimate, Stage]], gpus: float) -> tuple[float, str]:
    """Operations per second of a rank: of the sealed trainings that were never restarted, or the assumed one."""
    operations = seconds = count = 0.0
    for estimate, stage in trainings:
        folder = Folder(estimate.runs, stage)
        if folder.sealed and (manifest := read_manifest(folder.path))["starts"] == 1:
            operations, count = operations + estimate.training(stage), count + 1
            seconds += manifest["seconds"] * ranks_of(stage)
    if count:
        return operations / seconds, f"at the pace of {count:.0f} sealed ones"
    return read_yaml(CONF / "sizes.yaml", "correct it")["operations_per_second"]["gpu" if gpus else "cpu"], "estimate"


def _waiting(estimate: Estimate, stage: Stage, ranks: int) -> float:
    """How much longer a step takes because ranks wait for the one with the most tokens."""
    batch, budget = stage.settings["train"]["global_batch"], stage.launch["train"]["micro_batch_tokens"]
    return _imbalance(estimate.lengths, answers_of(stage), batch, ranks, budget)


@cache
def _imbalance(lengths: Lengths, answers: int, batch: int, ranks: int, budget: int) -> float:
    drawn = lengths.pairs(BATCHES * batch, answers).reshape(BATCHES, batch).tolist()
    return fmean(imbalance(each, deal(each, ranks, budget)) for each in drawn)
