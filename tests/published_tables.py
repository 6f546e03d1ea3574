"""Published tables with made-up numbers, in the layout that `recipes.publish` gives them."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.pair_groups import PairGroups, as_pairs_csv
from focalpo.reporting.published import Published
from focalpo.reporting.tables import as_csv
from focalpo.scoring.differences import Difference

COST = "8. **Compute resources: yes.** 1.25 stage-hours (train 1.25) on 2 cores, GPUs: none. Earlier sweeps are not.\n"


def cell(
    difference: float | None = None, half: float = 1.0, p: float = 1.0, equal: float = 1.0, value: float = 20.0
) -> Cell:
    """A score of `value` ±2, and its difference with its interval's half-width; detectable is twice that."""
    found = None
    if difference is not None:
        found = Difference(difference, difference - half, difference + half, p / 2, half / 2, 100.0)
    certainty = {"p_holm": p, "p_equal": equal, "detectable": 2 * half}
    return Cell(value, value - 2, value + 2, 3, 400, 0.5, found, **certainty)


def results(rows: Mapping[str, Mapping[str, Mapping[str, Cell]]]) -> Results:
    """A table from cells by setting, row and column, compared with the row dpo."""
    found = {
        setting: [RowResult(name, name.upper(), dict(cells), {}, {}) for name, cells in each.items()]
        for setting, each in rows.items()
    }
    labels = {setting: f"The {setting} (long)" for setting in rows}
    return Results("T, commit abc", labels, found, "dpo", "DPO", (), margin=3.0)


def published(
    rows: Mapping[str, Mapping[str, Mapping[str, Cell]]], pairs: Sequence[PairGroups] = (), name: str = "pocket"
) -> Published:
    """The same as a published table."""
    return Published(name, results(rows), list(pairs), "", None, "")


def groups(setting: str, row: str, seed: int, fixed: float, margin: float, ended: float = 70.0) -> PairGroups:
    """What a training did, of which only three numbers matter here."""
    return PairGroups(setting, row, str(seed), 400, 65.0, 90.0, fixed, ended, margin, 1.0)


def write_published(folder: Path, table: Results, pairs: Sequence[PairGroups] = ()) -> None:
    """Write a table as `recipes.publish` leaves it, without its hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table1.csv").write_text(as_csv(table))
    (folder / "table1.md").write_text(f"**{table.title}**\n\nno table\n")
    (folder / "checklist.md").write_text(COST)
    if pairs:
        (folder / "pairs.csv").write_text(as_pairs_csv(pairs))


def made_up(settings: Sequence[str], rows: Sequence[str], columns: Sequence[str]) -> tuple[Results, list[PairGroups]]:
    """A whole table, drawn at random from a fixed seed."""
    draw = random.Random(1)
    found = {
        setting: {
            row: {column: cell(None if row == "dpo" else draw.gauss(0, 1), equal=0.01) for column in columns}
            for row in rows
        }
        for setting in settings
    }
    trained = [row for row in rows if row != "sft"]
    pairs = [
        groups(setting, row, seed, draw.gauss(25, 1), draw.gauss(3, 0.1))
        for setting in settings
        for row in trained
        for seed in (1, 2, 3)
    ]
    return results(found), pairs
