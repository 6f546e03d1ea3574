"""The table for a terminal: the finding, what to be warned of, one table of values with intervals; 100 columns wide."""

import textwrap

from focalpo.reporting.blocks import SCALE_NOTES, caveats
from focalpo.reporting.cells import Cell, Results
from focalpo.reporting.finding import LEVEL, finding, short_label
from focalpo.stages.metrics import NONE, Column

WIDTH = 100
MOST_WARNINGS = 3


def as_terminal(results: Results, scale: str) -> str:
    """Settings side by side where that fits, below each other elsewhere; differences and errors are in report.md."""
    tables = [_aligned(rows) for rows in _fitting(results)]
    shown = [f"WARNING: {warning}" for warning in results.warnings[:MOST_WARNINGS]]
    if more := len(results.warnings) - len(shown):
        shown.append(f"... and {more} more warnings, see report.md")
    stars = f"; * differs from {results.compare_label}, p < .05 after Holm's correction" if results.compared else ""
    legend = f"± half a 95% interval{stars}."
    texts = [results.title, finding(results), *shown, *results.who_judged]
    below = [legend, *caveats(results), *([SCALE_NOTES[scale]] if scale in SCALE_NOTES else [])]
    return "\n\n".join([*map(_wrapped, texts), *tables, "\n".join(map(_wrapped, below))]) + "\n"


def _fitting(results: Results) -> list[list[list[str]]]:
    """The rows of one table of all settings, or of a table per setting, whose columns go on below where they must."""
    columns, settings = results.columns, list(results.rows)
    whole = _rows(results, settings, columns)
    if _width(whole) <= WIDTH:
        return [whole]
    return [_rows(results, [setting], part) for setting in settings for part in _parts(results, setting, columns)]


def _parts(results: Results, setting: str, columns: list[Column]) -> list[list[Column]]:
    """The columns in as few parts as fit the width, about equally many in each."""
    for count in range(1, len(columns)):
        size = -(-len(columns) // count)
        parts = [columns[first : first + size] for first in range(0, len(columns), size)]
        if all(_width(_rows(results, [setting], part)) <= WIDTH for part in parts):
            return parts
    return [[column] for column in columns] or [[]]


def _rows(results: Results, settings: list[str], columns: list[Column]) -> list[list[str]]:
    labels = {row.name: row.label for setting in settings for row in results.rows[setting]}
    by_name = {(setting, row.name): row for setting in settings for row in results.rows[setting]}
    head = ["", *(column.header for _ in settings for column in columns)]
    above = ["", *(short_label(results, s) if place == 0 else "" for s in settings for place in range(len(columns)))]
    body = []
    for name, label in labels.items():
        rows = [by_name.get((setting, name)) for setting in settings]
        cells = [row.cells.get(column.name) if row else None for row in rows for column in columns]
        body.append([label, *map(_cell, cells)])
    return [above, head, *body]


def _width(rows: list[list[str]]) -> int:
    return max(map(len, _aligned(rows).splitlines()))


def _cell(cell: Cell | None) -> str:
    """Value, half of its interval, and a sign where it differs; numbers end at the same place with and without it."""
    if cell is None:
        return f"{NONE} "
    star = "*" if cell.difference is not None and cell.p_holm < LEVEL else " "
    return f"{cell.value:.1f} ±{(cell.high - cell.low) / 2:.1f}{star}"


def _aligned(rows: list[list[str]]) -> str:
    """Columns to the right, labels to the left; the first row's texts run on over the columns that follow."""
    above, *others = rows
    widths = [max(len(row[place]) for row in others) for place in range(len(above))]
    starts = [sum(widths[:place]) + 2 * place for place in range(len(above))]
    top = ""
    for start, text in zip(starts, above, strict=True):
        top = top.ljust(start) + text if text else top
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in others
    ]
    return "\n".join(line.rstrip() for line in (top, *lines))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
