"""The table's numbers: scores with intervals and paired differences, from the verdicts of sealed judge stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from focalpo.scoring.length_control import LengthControlled, library_error, read_gamed
from focalpo.scoring.stats import (
    Interval,
    Metric,
    Remembered,
    arena_score,
    battle_error,
    bootstrap_error,
    detectable_difference,
    holm,
    interval,
    paired_difference,
    seed_deviation,
    standard_error,
    win_rate,
)
from focalpo.stages.records import AlpacaVerdict, ArenaGame, read_records

BENCHMARKS = {"ae2_lc": "alpaca_eval", "ae2_wr": "alpaca_eval", "arena_hard": "arena_hard"}
EXTRAS = {
    "arena_styled": "hard prompts, style-controlled",
    "greedy_success": "greedy success %",
    "tokens": "tokens",
    "unfinished": "unfinished %",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One model, a row at one seed: its sealed judge folder and the facts reported beside its scores."""

    seed: str
    judge: Path
    facts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RowSpec:
    """A row to report: its runs in the order of their seeds; empty when it did not run."""

    name: str
    label: str
    runs: Sequence[Run]
    paper: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """A score with its interval, and its paired difference to the row that the table compares with.

    `se` is the bootstrap standard error in points; `library_se` is what the benchmark's own code would print, averaged
    over runs; `verdict` is empty where there is no comparable number of the paper.
    """

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
    se: float = float("nan")
    library_se: float = float("nan")
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's cells by column, its extra columns (means over runs), and the paper's numbers."""

    name: str
    label: str
    cells: dict[str, Cell]
    extras: dict[str, float]
    paper: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Results:
    """The whole table: rows by setting, setting labels, notes and warnings."""

    title: str
    settings: dict[str, str]
    rows: dict[str, list[RowResult]]
    compare_with: str
    compare_label: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def has_paper(self) -> bool:
        return any(row.paper for rows in self.rows.values() for row in rows)

    @property
    def compared(self) -> int:
        """Number of differences in the table, which is the family size of Holm's correction."""
        return sum(
            cell.difference is not None for rows in self.rows.values() for row in rows for cell in row.cells.values()
        )

    def extras(self, setting: str) -> dict[str, str]:
        """Titles, by name, of the extra columns that at least one row of the setting has."""
        rows = self.rows[setting]
        return {name: title for name, title in EXTRAS.items() if any(name in row.extras for row in rows)}


@dataclass(frozen=True, slots=True)
class _Score:
    seeds: tuple[str, ...]
    metric: Metric
    library_se: float


def setting_rows(specs: Sequence[RowSpec], gamed: Path | None, compare_with: str) -> list[RowResult]:
    """Compute all rows of one setting; p-values are not yet corrected.

    `gamed` is the benchmark's df_gamed.csv; it is None only where no row has a run.
    """
    scores = {spec.name: _scores(spec.runs, gamed) for spec in specs if spec.runs and gamed}
    rows = []
    for spec in specs:
        found = scores.get(spec.name, {})
        base = scores.get(compare_with, {}) if spec.name != compare_with else {}
        cells = {column: _cell(score, base.get(column)) for column, score in found.items()}
        rows.append(RowResult(spec.name, spec.label, cells, _mean_facts(spec.runs), spec.paper))
    return rows


def holm_corrected(settings: Mapping[str, list[RowResult]]) -> dict[str, list[RowResult]]:
    """Correct the p-values over all differences of the table: rows by columns by settings.

    A reader of the whole table then finds a difference that does not exist 5 times in 100, not 5 times per column.
    """
    compared = [
        (setting, row.name, column)
        for setting, rows in settings.items()
        for row in rows
        for column, cell in row.cells.items()
        if cell.difference is not None
    ]
    by_place = {(setting, row.name): row for setting, rows in settings.items() for row in rows}
    corrected = dict(zip(compared, holm([by_place[s, r].cells[c].p for s, r, c in compared]), strict=True))

    def cell_of(setting: str, row: RowResult, column: str) -> Cell:
        return replace(row.cells[column], p_holm=corrected.get((setting, row.name, column), float("nan")))

    return {
        setting: [replace(row, cells={column: cell_of(setting, row, column) for column in row.cells}) for row in rows]
        for setting, rows in settings.items()
    }


def _scores(runs: Sequence[Run], gamed: Path) -> dict[str, _Score]:
    alpaca = [read_records(run.judge / "alpaca_eval.parquet", AlpacaVerdict) for run in runs]
    preference = _array(alpaca, "preference")
    lengths = _array(alpaca, "reference_length"), _array(alpaca, "model_length")
    games = [read_records(run.judge / "arena_hard.parquet", ArenaGame) for run in runs]
    results, weights = (_array(games, name).reshape(len(runs), -1, 2) for name in ("result", "weight"))
    benchmark = read_gamed(gamed)

    def scored(metric: Metric, library_errors: Sequence[float]) -> _Score:
        return _Score(tuple(run.seed for run in runs), Remembered(metric), float(np.mean(library_errors)))

    controlled = LengthControlled(preference, *lengths, benchmark)
    return {
        "ae2_lc": scored(controlled, [library_error(found, benchmark) for found in controlled.fits]),
        "ae2_wr": scored(win_rate(preference), [standard_error(run) for run in preference]),
        "arena_hard": scored(arena_score(results, weights), list(map(battle_error, results, weights))),
    }


def _array(runs: Sequence[Sequence[object]], name: str) -> np.ndarray:
    return np.array([[getattr(record, name) for record in records] for records in runs], dtype=float)


def _cell(score: _Score, base: _Score | None) -> Cell:
    metric, found = score.metric, interval(score.metric)
    cell = Cell(found.value, found.low, found.high, metric.seeds, metric.prompts, seed_deviation(metric))
    cell = replace(cell, se=bootstrap_error(metric), library_se=score.library_se)
    if base is None:
        return cell
    same = score.seeds == base.seeds  # matching runs then share data order and sampling
    difference, p = paired_difference(metric, base.metric, same)
    return replace(cell, difference=difference, p=p, detectable=detectable_difference(metric, base.metric, same))


def _mean_facts(runs: Sequence[Run]) -> dict[str, float]:
    names = [name for name in EXTRAS if runs and all(name in run.facts for run in runs)]
    return {name: float(np.mean([run.facts[name] for run in runs])) for name in names}
