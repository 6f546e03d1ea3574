"""The forest plot: differences from the row that the table compares with, and their intervals, around a zero line.

Results --> a table whose cells hold small SVG drawings

Drawings are in percent of their cell's width and text is the page's own, so that nothing shrinks on a phone; colours
are the page's CSS variables. The numbers stand beside the drawings, or are their labels.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.finding import LEVEL, compared, short_label, subject, subject_label
from focalpo.scoring.differences import Difference
from focalpo.scoring.student import quantile
from focalpo.stages.metrics import NONE, Column

ROOM = 0.04
"""Of an axis that stays free at both ends, for points and numbers that stand there."""
TICKS = 7
"""At most, besides zero."""
TINY = 1e-9  # of a step: -0.6 / 0.2 is not -3 in binary


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of differences, in points, drawn over the width of a cell."""

    low: float
    high: float

    def at(self, points: float) -> str:
        """The place of a difference, in percent of the width."""
        share = (points - self.low) / (self.high - self.low)
        return f"{100 * (ROOM + (1 - 2 * ROOM) * share):.2f}%"

    def ticks(self) -> list[float]:
        """Multiples of 1, 2 or 5 powers of ten, zero among them."""
        rough = (self.high - self.low) / TICKS
        unit = 10 ** math.floor(math.log10(rough))
        step = next(size * unit for size in (1, 2, 5, 10) if size * unit >= rough)
        first, last = math.ceil(self.low / step - TINY), math.floor(self.high / step + TINY)
        return [k * step for k in range(first, last + 1)]


def corrected(difference: Difference, tests: int) -> tuple[float, float]:
    """The interval at 95% for all differences of the table together (Bonferroni): wider than Holm's test requires."""
    half = quantile(LEVEL / tests, difference.df) * difference.error
    return difference.value - half, difference.value + half


def forest(results: Results) -> str:
    """The section with the subject's differences, one line per score, and below them those of every row."""
    others = _others(results)
    if not results.compared:
        return ""
    label = subject_label(results) if compared(results) else "Every row"
    title = f"{escape(label)} minus {escape(results.compare_label)}, in points"
    return (
        f'<section id="forest" aria-labelledby="forest-title"><h2 id="forest-title">{title}</h2>'
        f'{_subject(results)}{others}<p class="quiet">{escape(_legend(results))}</p></section>'
    )


def _legend(results: Results) -> str:
    margin = "" if math.isnan(results.margin) else f" Shaded: the equivalence margin of ±{results.margin:g} points."
    return (
        "Dot: the difference on the same prompts, filled where it is significant (p < .05 after Holm's correction). "
        f"Thick line: its 95% interval. Thin line: the interval corrected for all {results.compared} differences of "
        f"the table (Bonferroni).{margin} Right of zero {results.compare_label} is behind, left of it ahead."
    )


def _subject(results: Results) -> str:
    """A line per score; none where the table does not compare the subject."""
    found = compared(results)
    if not found:
        return ""
    axis = _axis((cell for _, _, cell in found), results)
    many = len(results.rows) > 1
    lines = "".join(
        f'<tr><th scope="row">{escape(column.title)}'
        + (f"<small>{escape(short_label(results, setting))}</small>" if many else "")
        + f'</th><td class="plot">{_drawn(cell, axis, results)}</td><td>{_numbers(cell)}</td></tr>'
        for setting, column, cell in found
    )
    return (
        '<table class="forest"><thead><tr><th scope="col">Score</th>'
        f'<th scope="col" class="plot"><span>← {escape(results.compare_label)}</span>'
        f"<span>{escape(subject_label(results))} →</span></th>"
        f'<th scope="col">difference</th></tr></thead><tbody>{lines}</tbody>'
        f'<tfoot aria-hidden="true"><tr><td></td><td class="plot">{_ticks(axis)}</td><td></td></tr></tfoot></table>'
    )


def _others(results: Results) -> str:
    """Every compared row, a table per setting with a drawing per score; none where there is no row but the subject."""
    axes = {
        column.name: _axis(cells, results) for column in results.columns if (cells := list(_cells(results, column)))
    }
    rows = {name: [row for row in found if _compares(row)] for name, found in results.rows.items()}
    if {row.name for found in rows.values() for row in found} <= {subject(results)}:
        return ""
    columns = [column for column in results.columns if column.name in axes]
    tables = "".join(_setting(results, name, found, columns, axes) for name, found in rows.items() if found)
    title = f"Every row minus {escape(results.compare_label)}"
    return f'<details id="forest-rows" open><summary>{title}</summary>{tables}</details>'


def _setting(
    results: Results, setting: str, rows: Sequence[RowResult], columns: Sequence[Column], axes: dict[str, Axis]
) -> str:
    label, focus = escape(results.settings[setting]), subject(results)
    head = "".join(f'<th scope="col" class="plot">{escape(column.title)}</th>' for column in columns)
    lines = "".join(
        f'<tr{" class=focus" if row.name == focus else ""}><th scope="row">{escape(row.label)}</th>'
        + "".join(
            f'<td class="plot">{_labelled(row.cells.get(column.name), axes[column.name], results)}</td>'
            for column in columns
        )
        + "</tr>"
        for row in rows
    )
    feet = "".join(f'<td class="plot">{_ticks(axes[column.name])}</td>' for column in columns)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Differences, {label}">'
        f'<table class="forest rows"><caption>{label}</caption>'
        f'<thead><tr><th scope="col">Method</th>{head}</tr></thead><tbody>{lines}</tbody>'
        f'<tfoot aria-hidden="true"><tr><td></td>{feet}</tr></tfoot></table></div>'
    )


def _compares(row: RowResult) -> bool:
    return any(cell.difference is not None for cell in row.cells.values())


def _cells(results: Results, column: Column) -> Iterator[Cell]:
    for rows in results.rows.values():
        for row in rows:
            cell = row.cells.get(column.name)
            if cell is not None and cell.difference is not None:
                yield cell


def _axis(cells: Iterable[Cell], results: Results) -> Axis:
    """From the lowest to the highest end of the cells' intervals, with zero and the margin."""
    ends = [end for cell in cells if cell.difference for end in corrected(cell.difference, results.compared)]
    margin = 1.0 if math.isnan(results.margin) else results.margin
    return Axis(min(*ends, -margin), max(*ends, margin))


def _drawn(cell: Cell, axis: Axis, results: Results, said: str = 'aria-hidden="true"') -> str:
    found = cell.difference
    assert found is not None
    low, high = corrected(found, results.compared)
    dot = "sure" if cell.p_holm < LEVEL else "unsure"
    return (
        f'<svg {said}>{_ground(axis, results.margin)}<line class="thin" x1="{axis.at(low)}" x2="{axis.at(high)}" '
        f'y1="50%" y2="50%"/><line class="thick" x1="{axis.at(found.low)}" x2="{axis.at(found.high)}" y1="50%" '
        f'y2="50%"/><circle class="{dot}" cx="{axis.at(found.value)}" cy="50%" r="4"/></svg>'
    )


def _ground(axis: Axis, margin: float) -> str:
    """The zero line and the margin behind a drawing; those of all lines join to one, so they reach beyond their own."""
    zero = f'<line class="zero" x1="{axis.at(0)}" x2="{axis.at(0)}" y1="-1" y2="105%"/>'
    if math.isnan(margin):
        return zero
    left, right = (float(axis.at(end)[:-1]) for end in (-margin, margin))
    return f'<rect class="margin" x="{left:.2f}%" width="{right - left:.2f}%" y="-1" height="105%"/>{zero}'


def _labelled(cell: Cell | None, axis: Axis, results: Results) -> str:
    if cell is None or cell.difference is None:
        return NONE
    return _drawn(cell, axis, results, f'role="img" aria-label="{escape(_text(cell))}"')


def _text(cell: Cell) -> str:
    found = cell.difference
    assert found is not None
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]" + (" *" if cell.p_holm < LEVEL else "")


def _numbers(cell: Cell) -> str:
    value, _, rest = _text(cell).partition(" ")
    return f"{value} <small>{rest}</small>"


def _ticks(axis: Axis) -> str:
    marks = "".join(f'<text x="{axis.at(tick)}" y="70%">{tick:+g}</text>' for tick in axis.ticks())
    return f"<svg>{marks.replace('+0<', '0<')}</svg>"
