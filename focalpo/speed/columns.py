"""Rows as aligned columns and as a CSV file. Imports nothing that a bare machine may lack."""

import csv
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, object]


def text(rows: Sequence[Row]) -> str:
    """Format rows as aligned columns, words to the left and numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[_formatted(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(values[place]) for values in cells) for place in range(len(names))]
    left = [isinstance(rows[0].get(name), str) for name in names]

    def line(values: list[str]) -> str:
        padded = zip(values, widths, left, strict=True)
        return "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in padded
        ).rstrip()

    return "\n".join(map(line, cells))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _formatted(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 10 else f"{value:.0f}"
    return str(value)
