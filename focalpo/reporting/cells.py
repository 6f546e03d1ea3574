"""The table's numbers: scores with intervals and paired differences, from the records of sealed stages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from focalpo.reporting.judged import Judged
from focalpo.reporting.scores import Run, Score, row_scores
from focalpo.reporting.styled import COLUMN, styled
from focalpo.scoring.differences import Difference, holm, paired_difference
from focalpo.scoring.stats import bootstrap_error, interval, seed_deviation
from focalpo.stages.metrics import ARENA_TWO, COLUMNS, EXTRAS, Column, column_of, extra_title


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

    `p_holm` and `detectable`, in points, are corrected for all differences of the table. `p_equal` is the p-value of a
    difference as large as the margin of the equivalence test, `se` the bootstrap standard error in points; `library_se`
    is what the benchmark's own code would print, averaged over runs; `verdict` is empty where there is no comparable
    number of the paper. `missing` verdicts, of all runs, are left out; `worst` is the score if all of them were lost,
    and if all were won.
    """

    value: float
    low: float
    high: float
    seeds: int
    prompts: int
    seed_sd: float | None
    difference: Difference | None = None
    p_holm: float = float("nan")
    p_equal: float = float("nan")
    detectable: float = float("nan")
    se: float = float("nan")
    library_se: float = float("nan")
    verdict: str = ""
    missing: int = 0
    worst: tuple[float, float] | None = None


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
    """The whole table: rows by setting, setting labels, notes, warnings, the margin of equivalence in points.

    `judges` says who judged, by setting.
    """

    title: str
    settings: dict[str, str]
    rows: dict[str, list[RowResult]]
    compare_with: str
    compare_label: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    margin: float = float("nan")
    judges: Mapping[str, Sequence[Judged]] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Number of differences in the table, which is the family size of Holm's correction."""
        return sum(
            cell.difference is not None for rows in self.rows.values() for row in rows for cell in row.cells.values()
        )

    @property
    def columns(self) -> list[Column]:
        """The columns in which at least one row has a number, judged ones first; the judged ones where none has any."""
        found = dict.fromkeys(name for rows in self.rows.values() for row in rows for name in row.cells)
        return [column_of(name) for name in _in_order(found or COLUMNS, [*COLUMNS, *ARENA_TWO])]

    @property
    def who_judged(self) -> list[str]:
        """Who judged, once where the settings share it, else by setting."""
        lines: dict[str, list[str]] = {}
        for setting, judges in self.judges.items():
            for judged in judges:
                lines.setdefault(str(judged), []).append(self.settings[setting])
        return [
            line if len(settings) == len(self.judges) else f"{', '.join(settings)}: {line}"
            for line, settings in lines.items()
        ]

    def extras(self, setting: str) -> dict[str, str]:
        """Titles, by name, of the extra columns that at least one row of the setting has; repetition only if there is
        any, which short answers never have."""
        extras = [extra for row in self.rows[setting] for extra in row.extras.items()]
        found = dict.fromkeys(name for name, value in extras if name != "repetitive" or value)
        return {name: extra_title(name) for name in _in_order(found, EXTRAS)}


def setting_rows(
    specs: Sequence[RowSpec], gamed: Path | None, arena: Path | None, compare_with: str, margin: float
) -> list[RowResult]:
    """Compute all rows of one setting; p-values are not yet corrected.

    `gamed` is AlpacaEval's df_gamed.csv, `arena` the folder of Arena-Hard's questions; they are None only where no row
    is judged on them. `margin` is that of the equivalence test, in points.
    """
    scores = {spec.name: row_scores(spec.runs, gamed) for spec in specs if spec.runs}
    controlled = styled({spec.name: spec.runs for spec in specs}, arena) if arena else {}
    for name, (score, _) in controlled.items():
        scores[name][COLUMN] = score
    rows = []
    for spec in specs:
        found = scores.get(spec.name, {})
        base = scores.get(compare_with, {}) if spec.name != compare_with else {}
        cells = {column: _cell(score, base.get(column), margin) for column, score in found.items()}
        extras = _mean_facts(spec.runs)
        if spec.name in controlled:
            extras["arena_styled"] = controlled[spec.name][1]
        rows.append(RowResult(spec.name, spec.label, cells, extras, spec.paper))
    return rows


def holm_corrected(settings: Mapping[str, list[RowResult]]) -> dict[str, list[RowResult]]:
    """Correct the p-values, and what is detectable, for all differences of the table: rows by columns by settings.

    A reader of the whole table then finds a difference that does not exist 5 times in 100, not 5 times per column.
    """
    found = {
        (setting, row.name, column): cell.difference
        for setting, rows in settings.items()
        for row in rows
        for column, cell in row.cells.items()
        if cell.difference is not None
    }
    corrected = dict(zip(found, holm([each.p for each in found.values()]), strict=True))

    def cell_of(setting: str, row: RowResult, column: str) -> Cell:
        cell, place = row.cells[column], (setting, row.name, column)
        if place not in found:
            return cell
        return replace(cell, p_holm=corrected[place], detectable=found[place].detectable(len(found)))

    return {
        setting: [replace(row, cells={column: cell_of(setting, row, column) for column in row.cells}) for row in rows]
        for setting, rows in settings.items()
    }


def _cell(score: Score, base: Score | None, margin: float) -> Cell:
    metric, found = score.metric, interval(score.metric)
    cell = Cell(found.value, found.low, found.high, metric.seeds, metric.prompts, seed_deviation(metric))
    cell = replace(
        cell, se=bootstrap_error(metric), library_se=score.library_se, missing=score.missing, worst=score.worst
    )
    if base is None:
        return cell
    same = score.seeds == base.seeds  # matching runs then share data order and sampling
    difference = paired_difference(metric, base.metric, same)
    return replace(cell, difference=difference, p_equal=difference.equivalence(margin))


def _mean_facts(runs: Sequence[Run]) -> dict[str, float]:
    names = [name for name in runs[0].facts if all(name in run.facts for run in runs)] if runs else []
    return {name: float(np.mean([run.facts[name] for run in runs])) for name in _in_order(names, EXTRAS)}


def _in_order(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """The names, those in `first` before the others."""
    names = list(names)
    return [name for name in first if name in names] + [name for name in names if name not in set(first)]
