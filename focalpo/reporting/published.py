"""A table that lies in docs/, read back: its numbers, what training did to pairs, its cost, and the report it is of.

docs/<name>/table1.csv, pairs.csv, checklist.md, table1.md, report.json --> Published
"""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.pair_groups import PairGroups, read_pairs_csv
from focalpo.scoring.differences import Difference
from focalpo.stages.folder import file_hash
from focalpo.stages.metrics import NONE, is_extra
from focalpo.stages.reading import check_keys, read_json, read_text

SOURCE = "report.json"
"""Which sealed report the files of a folder of docs/ are, with the sha256 of each."""
COMPUTE = re.compile(r"\*\*Compute resources: yes\.\*\* ([\d.]+) stage-hours \(.*?\) on (.*?)\. ")


@dataclass(frozen=True, slots=True)
class Published:
    """A published table; `pairs` is empty where the report has none, `report` where its name was not kept.

    `hours` are those of all its stages on `machine`, summed over processes; None where they are not known.
    """

    name: str
    results: Results
    pairs: list[PairGroups]
    report: str
    hours: float | None
    machine: str

    @property
    def source(self) -> str:
        """Where its numbers lie."""
        return f"docs/{self.name}/table1.csv"

    @property
    def commit(self) -> str:
        """The commit in the table's title, that made it."""
        return self.results.title.rpartition("commit ")[2]


def read_published(folder: Path, table: Mapping, margin: float) -> Published | None:
    """Read a folder of docs/; None when it holds no table.

    `table` is the table's file in conf/table/, for the labels; `margin` that of the equivalence test, in points.

    Raises:
        ValueError: when a file is damaged, or is not the one that was published.
    """
    if not (folder / "table1.csv").is_file():
        return None
    report = _checked(folder)
    pairs = folder / "pairs.csv"
    cost = COMPUTE.search(read_text(folder / "checklist.md"))
    return Published(
        folder.name,
        _results(folder, table, margin),
        read_pairs_csv(pairs) if pairs.is_file() else [],
        report,
        float(cost[1]) if cost else None,
        cost[2] if cost else "",
    )


def source_of(manifest: Mapping, files: Mapping[str, str]) -> dict:
    """What SOURCE holds: the stage, its commit, and the sha256 of each published file, whose place in the stage is
    given by its published name."""
    hashes = {name: manifest["outputs"][place] for name, place in files.items()}
    return {"stage": manifest["stage"], "commit": manifest["commit"], "sha256": hashes}


def _checked(folder: Path) -> str:
    """The name of the report that the files are of; empty where it was not kept."""
    file = folder / SOURCE
    if not file.is_file():
        return ""
    remedy = "publish the report again, or restore it from the checkout"
    source = read_json(file, remedy)
    check_keys(file, source, {"stage": str, "commit": str, "sha256": dict}, remedy)
    for name, digest in source["sha256"].items():
        found = folder / name
        if not found.is_file() or file_hash(found) != digest:
            raise ValueError(f"{found} is not the file of {source['stage']}; {remedy}")
    return source["stage"]


def _results(folder: Path, table: Mapping, margin: float) -> Results:
    file = folder / "table1.csv"
    rows: dict[str, dict[str, RowResult]] = {}
    for line in csv.DictReader(read_text(file).splitlines()):
        if None in line.values() or "p_holm" not in line:
            raise ValueError(f"{file} lacks columns of a table; publish the report again")
        name, column = line["row"], line["column"]
        label = table["rows"].get(name, {}).get("label", name)
        row = rows.setdefault(line["setting"], {}).setdefault(name, RowResult(name, label, {}, {}, {}))
        if is_extra(column):
            row.extras[column] = float(line["value"])
        elif line["value"] != NONE:
            row.cells[column] = _cell(line)
    title = read_text(folder / "table1.md").partition("\n")[0].strip("*")
    labels = {name: table["settings"].get(name, {}).get("label", name) for name in rows}
    compared = table["compare_with"]
    other = table["rows"].get(compared, {}).get("label", compared)
    return Results(
        title, labels, {name: [*found.values()] for name, found in rows.items()}, compared, other, (), margin=margin
    )


def _cell(line: Mapping[str, str]) -> Cell:
    """A cell from its line; what older tables lack is NaN, and so is a difference's standard error."""

    def number(name: str) -> float:
        return float(text) if (text := line.get(name, NONE)) not in (NONE, "") else math.nan

    found = None
    if line["difference"] != NONE:
        value, low, high = number("difference"), number("difference_low"), number("difference_high")
        found = Difference(value, low, high, number("p"), error=math.nan, df=math.nan)
    return Cell(
        number("value"),
        number("low"),
        number("high"),
        seeds=int(line["seeds"]),
        prompts=int(line["prompts"]),
        seed_sd=number("seed_sd"),
        difference=found,
        p_holm=number("p_holm"),
        p_equal=number("p_equal"),
        detectable=number("detectable"),
        se=number("se"),
        library_se=number("library_se"),
    )
