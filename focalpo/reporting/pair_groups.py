"""What training did to the held-out pairs that started right and to those that started wrong: pairs.csv of a report.

dynamics.parquet of every training --> PairGroups, one per setting, row and seed --> pairs.csv --> PairGroups
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from focalpo.reporting.table_run import TableRun
from focalpo.stages.rankings import Change, groups
from focalpo.stages.reading import read_text

SPLIT = "test"
"""Held-out pairs: what is measured on them was not trained."""


@dataclass(frozen=True, slots=True)
class PairGroups:
    """One training's held-out pairs by whether the start model ranked them right, by summed log-prob.

    `started_right`, `kept` (of those that started right, ranked right at the end), `fixed` (of those that started
    wrong, ranked right at the end) and `ended_right` are per cent; margins D are means in nats. NaN where no pair is in
    the group.
    """

    setting: str
    row: str
    seed: str
    pairs: int
    started_right: float
    kept: float
    fixed: float
    ended_right: float
    margin_right: float
    margin_wrong: float


def pair_groups(run: TableRun) -> list[PairGroups]:
    """The groups of every training on pairs of a table, in the order of its settings, rows and seeds."""
    return [
        _measured(setting, row, seed, found)
        for setting in run.settings
        for row in run.rows
        if (changes := run.changes(setting, row, SPLIT))
        for seed, found in zip(run.seeds(setting, row, "train"), changes, strict=True)
    ]


def as_pairs_csv(found: Iterable[PairGroups]) -> str:
    """One line per training, every number at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in fields(PairGroups))
    writer.writerows(asdict(each).values() for each in found)
    return out.getvalue()


def read_pairs_csv(path: Path) -> list[PairGroups]:
    """Read what `as_pairs_csv` wrote.

    Raises:
        ValueError: when the file is damaged.
    """
    names = [field.name for field in fields(PairGroups)]
    found = []
    for line in csv.DictReader(read_text(path).splitlines()):
        if list(line) != names or None in line.values():
            raise ValueError(f"{path} lacks columns; publish the report again")
        setting, row, seed, pairs, *numbers = line.values()
        found.append(PairGroups(setting, row, seed, int(pairs), *(float(number) for number in numbers)))
    return found


def _measured(setting: str, row: str, seed: str, change: Change) -> PairGroups:
    shares, started = groups(change), change.ranked_right("start")
    right, wrong = (shares[f"{start}_right"] + shares[f"{start}_wrong"] for start in ("right", "wrong"))
    return PairGroups(
        setting,
        row,
        seed,
        len(started),
        100 * right,
        100 * shares["right_right"] / right if right else float("nan"),
        100 * shares["wrong_right"] / wrong if wrong else float("nan"),
        100 * (shares["right_right"] + shares["wrong_right"]),
        _mean(change.margin[started == 1]),
        _mean(change.margin[started == 0]),
    )


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
