"""A published table as the report holds it: results read back from docs/NAME/table1.csv."""

import csv
from collections.abc import Mapping
from pathlib import Path

from focalpo.config.compose import compose_table
from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.scoring.differences import Difference
from focalpo.stages.metrics import is_extra

ROOT = Path(__file__).parent.parent
MARGIN = 3.0


def published(name: str) -> Results:
    """The results behind docs/`name`/table1.csv, with the labels of conf/table/`name`.yaml."""
    table = compose_table(name)
    found: dict[str, dict[str, RowResult]] = {setting: {} for setting in table.settings}
    for line in csv.DictReader((ROOT / f"docs/{name}/table1.csv").read_text().splitlines()):
        label = table.rows[line["row"]].label
        row = found[line["setting"]].setdefault(line["row"], RowResult(line["row"], label, {}, {}, {}))
        if is_extra(line["column"]):
            row.extras[line["column"]] = float(line["value"])
        elif line["value"] != "-":
            row.cells[line["column"]] = _cell(line)
    labels = {setting: values.label for setting, values in table.settings.items()}
    rows = {setting: list(rows.values()) for setting, rows in found.items()}
    other = table.rows[table.compare_with].label
    return Results(f"FocalPO, {name}", labels, rows, table.compare_with, other, (), margin=MARGIN)


def _cell(line: Mapping[str, str]) -> Cell:
    def number(name: str) -> float:
        return float("nan" if line[name] == "-" else line[name])

    difference = None
    if line["difference"] != "-":
        value, low, high = (number(f"difference{end}") for end in ("", "_low", "_high"))
        # The error is not published: half the interval over Student's quantile, with as many degrees as prompts.
        difference = Difference(value, low, high, number("p"), (high - low) / 2 / 1.966, number("prompts") - 1)
    return Cell(
        *(number(name) for name in ("value", "low", "high")),
        seeds=int(line["seeds"]),
        prompts=int(line["prompts"]),
        seed_sd=None if line["seed_sd"] == "-" else number("seed_sd"),
        difference=difference,
        **{name: number(name) for name in ("p_holm", "p_equal", "detectable", "se", "library_se")},
    )
