"""The finding in one sentence, made from the table's numbers: is FocalPO ahead of the row it is compared with?

Without FocalPO it is about the row that is compared alone, or about all that are.
"""

import math
from collections.abc import Mapping

from focalpo.reporting.cells import Cell, Results
from focalpo.stages.metrics import Column

SUBJECT = "focalpo"
LEVEL = 0.05
"""Of a p-value after Holm's correction over all differences of the table."""


def finding(results: Results) -> str:
    """How many of the subject's differences are significant, in which direction, and the largest of all."""
    cells = [(cell, f"{column.title}, {short_label(results, setting)}") for setting, column, cell in compared(results)]
    if not cells:
        return of_rows(results) or f"No finding: the table has no difference to {results.compare_label}."
    label, other = subject_label(results), results.compare_label
    largest, place = max(cells, key=lambda each: abs(_points(each[0])))
    gap = largest.difference
    assert gap is not None
    extreme = f"the largest difference is {gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}] ({place})"
    sure = [_points(cell) for cell, _ in cells if cell.p_holm < LEVEL]
    rule = "p < .05 after Holm's correction"
    if not sure:
        detectable = max(cell.detectable for cell, _ in cells)
        return (
            f"{label} and {other} cannot be told apart: none of {len(cells)} differences is significant ({rule}), "
            f"{extreme}; a true difference of {detectable:.1f} points would be significant 4 times in 5."
            f"{_equal(cells, results)}"
        )
    ahead = sum(points > 0 for points in sure)
    return (
        f"{label} is significantly ahead of {other} in {ahead} and behind in {len(sure) - ahead} of {len(cells)} "
        f"scores ({rule}); {extreme}."
    )


def compared(results: Results) -> list[tuple[str, Column, Cell]]:
    """The subject's cells that have a difference, with their setting and column.

    lm-eval's tasks, which training does not aim at, are not among them.
    """
    name = subject(results)
    return [
        (setting, column, row.cells[column.name])
        for setting, rows in results.rows.items()
        for row in rows
        for column in results.columns
        if row.name == name and column.stage != "capability"
        if column.name in row.cells and row.cells[column.name].difference is not None
    ]


def subject(results: Results) -> str:
    """The row that the finding is about."""
    differ = {
        row.name
        for rows in results.rows.values()
        for row in rows
        if any(cell.difference is not None for cell in row.cells.values())
    }
    return SUBJECT if SUBJECT in differ or len(differ) != 1 else differ.pop()


def subject_label(results: Results) -> str:
    """Its label, where something is compared."""
    name = subject(results)
    return next(row.label for rows in results.rows.values() for row in rows if row.name == name)


def _equal(cells: list[tuple[Cell, str]], results: Results) -> str:
    """In how many scores the difference is shown to be smaller than the margin; nothing where that was not tested."""
    tested = [cell.p_equal for cell, _ in cells if not math.isnan(cell.p_equal)]
    if not tested:
        return ""
    shown = sum(p < LEVEL for p in tested)
    return f" It is shown to be within ±{results.margin:g} points in {shown} of {len(tested)} scores."


def of_rows(results: Results) -> str:
    """Which rows are ahead of the compared row, or behind, in how many scores; which are shown to be as good in all."""
    found: dict[str, list[Cell]] = {}
    for row in (row for rows in results.rows.values() for row in rows):
        found.setdefault(row.label, []).extend(cell for cell in row.cells.values() if cell.difference is not None)
    found = {label: cells for label, cells in found.items() if cells}
    if not found:
        return ""
    sure = {label: [_points(cell) for cell in cells if cell.p_holm < LEVEL] for label, cells in found.items()}
    ahead = {label: sum(each > 0 for each in points) for label, points in sure.items()}
    behind = {label: sum(each < 0 for each in points) for label, points in sure.items()}
    equal = [label for label, cells in found.items() if all(cell.p_equal < LEVEL for cell in cells)]
    scores, alike = max(map(len, found.values())), ", ".join(equal) or "none"
    return (
        f"Of {len(found)} rows beside {results.compare_label}, in {scores} scores each: significantly ahead "
        f"{_counts(ahead)}; behind {_counts(behind)}; within ±{results.margin:g} points in all of them {alike}."
    )


def _counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{label} ({count})" for label, count in of.items() if count) or "none"


def short_label(results: Results, setting: str) -> str:
    """The setting's label without what stands in brackets."""
    return results.settings[setting].partition(" (")[0]


def _points(cell: Cell) -> float:
    assert cell.difference is not None
    return cell.difference.value
