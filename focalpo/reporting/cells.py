"""The numbers of the table: verdicts of sealed judge stages in, cells with intervals and paired differences out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from focalpo.judging.length_control import LengthControlled, read_gamed
from focalpo.judging.stats import (
    Interval,
    Metric,
    arena_score,
    detectable_difference,
    holm,
    interval,
    paired_difference,
    seed_deviation,
    win_rate,
)
from focalpo.records import AlpacaVerdict, ArenaGame, read_records

COLUMNS = {"ae2_lc": "AlpacaEval LC", "ae2_wr": "AlpacaEval WR", "arena_hard": "Arena-Hard WR"}
EXTRAS = {"greedy_success": "greedy success %", "tokens": "tokens", "unfinished": "unfinished %"}


@dataclass(frozen=True, slots=True)
class Run:
    """The sealed folders of one model: a row at one seed."""

    judge: Path
    facts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RowSpec:
    """A row to be reported: its runs in the order of their seeds, empty when it did not run."""

    name: str
    label: str
    runs: Sequence[Run]
    paper: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """A score with its interval, and its paired difference to the row that the table compares with."""

    value: float
    low: float
    high: float
    seeds: int
    prompts: int
    seed_sd: float | None
    difference: Interval | None = None
    p: float = float("nan")
    p_holm: float = float("nan")
    detectable: float = float("nan")


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's cells by column, what is reported beside them (means over runs), and the paper's numbers."""

    name: str
    label: str
    cells: dict[str, Cell]
    extras: dict[str, float]
    paper: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Results:
    """The whole table: rows by setting, setting labels, and what every reader must know."""

    title: str
    settings: dict[str, str]
    rows: dict[str, list[RowResult]]
    compare_with: str
    compare_label: str
    notes: tuple[str, ...]

    @property
    def has_paper(self) -> bool:
        return any(row.paper for rows in self.rows.values() for row in rows)

    def extras(self, setting: str) -> dict[str, str]:
        """Titles of the extra columns that any row of the setting has, by name."""
        rows = self.rows[setting]
        return {name: title for name, title in EXTRAS.items() if any(name in row.extras for row in rows)}


def setting_rows(specs: Sequence[RowSpec], gamed: Path | None, compare_with: str) -> list[RowResult]:
    """All rows of one setting; p-values are Holm-corrected over the rows of each column.

    `gamed` is the benchmark's df_gamed.csv; None only where no row has a run.
    """
    metrics = {spec.name: _metrics(spec.runs, gamed) for spec in specs if spec.runs and gamed}
    rows = []
    for spec in specs:
        found = metrics.get(spec.name, {})
        base = metrics.get(compare_with, {}) if spec.name != compare_with else {}
        cells = {column: _cell(metric, base.get(column)) for column, metric in found.items()}
        rows.append(RowResult(spec.name, spec.label, cells, _mean_facts(spec.runs), spec.paper))
    return _holm_corrected(rows)


def _metrics(runs: Sequence[Run], gamed: Path) -> dict[str, Metric]:
    alpaca = [read_records(run.judge / "alpaca_eval.parquet", AlpacaVerdict) for run in runs]
    preference = _array(alpaca, "preference")
    lengths = _array(alpaca, "reference_length"), _array(alpaca, "model_length")
    games = [read_records(run.judge / "arena_hard.parquet", ArenaGame) for run in runs]
    results, weights = (_array(games, name).reshape(len(runs), -1, 2) for name in ("result", "weight"))
    return {
        "ae2_lc": LengthControlled(preference, *lengths, read_gamed(gamed)),
        "ae2_wr": win_rate(preference),
        "arena_hard": arena_score(results, weights),
    }


def _array(runs: Sequence[Sequence[object]], name: str) -> np.ndarray:
    return np.array([[getattr(record, name) for record in records] for records in runs], dtype=float)


def _cell(metric: Metric, base: Metric | None) -> Cell:
    found = interval(metric)
    cell = Cell(found.value, found.low, found.high, metric.seeds, metric.prompts, seed_deviation(metric))
    if base is None:
        return cell
    # Rows with the same number of seeds used the same seeds: data order and sampling are then shared pair by pair.
    same = metric.seeds == base.seeds
    difference, p = paired_difference(metric, base, same)
    return replace(cell, difference=difference, p=p, detectable=detectable_difference(metric, base, same))


def _holm_corrected(rows: list[RowResult]) -> list[RowResult]:
    cells = [dict(row.cells) for row in rows]
    for column in COLUMNS:
        compared = [found for found in cells if column in found and found[column].difference is not None]
        for found, p in zip(compared, holm([found[column].p for found in compared]), strict=True):
            found[column] = replace(found[column], p_holm=p)
    return [replace(row, cells=found) for row, found in zip(rows, cells, strict=True)]


def _mean_facts(runs: Sequence[Run]) -> dict[str, float]:
    names = [name for name in EXTRAS if runs and all(name in run.facts for run in runs)]
    return {name: float(np.mean([run.facts[name] for run in runs])) for name in names}
