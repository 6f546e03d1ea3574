"""Checks what a rehearsal leaves behind: a table and a chain of manifests, both without a gap."""

import csv
import json
from collections import Counter
from pathlib import Path

from focalpo.config.schema import TableConfig
from focalpo.reporting.table_run import newest_reports
from focalpo.stages.folder import verify
from focalpo.stages.metrics import NONE, is_extra


def checked(runs: Path, table: TableConfig) -> str:
    """Check the rehearsal's folder and summarize it in one line.

    Raises:
        ValueError: for rows without a number, numbers of the author's without one of ours, outputs that differ from
            what was sealed, stages that are not sealed, or missing inputs.
    """
    file = newest_reports(runs)[0] / "table1.csv"  # an interrupted rehearsal has left one of fewer rows
    with file.open() as lines:
        values = {(line["setting"], line["row"], line["column"]): line["value"] for line in csv.DictReader(lines)}
    expected = [(setting, row) for setting in table.settings for row in table.rows]
    columns = {column for _, _, column in values if not is_extra(column)} or {"any column"}
    gaps = [place for place in expected for column in columns if values.get((*place, column), NONE) == NONE]
    if gaps:
        raise ValueError(f"the table has no number in {gaps}; see {file.parent}")
    if alone := _author_gaps(file.parent / "anchors.csv"):
        raise ValueError(f"nothing of ours stands beside the author's {', '.join(alone)}; see {file.parent}")
    manifests = sorted(runs.glob("*/*/manifest.json"))
    for path in manifests:
        verify(path.parent)
        missing = [name for name in json.loads(path.read_text())["inputs"].values() if not _sealed(runs / name)]
        if missing:
            raise ValueError(f"{path.parent} was made from {missing[0]}, which is not sealed")
    unsealed = [path.parent for path in runs.glob("*/*/stage.json") if not _sealed(path.parent)]
    if unsealed:
        raise ValueError(f"{unsealed[0]} was started but not sealed")
    counts = Counter(path.parent.parent.name for path in manifests)
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{len(expected)} rows, no gap in the table; {len(manifests)} sealed stages, no gap in the chain: {made}"


def _author_gaps(file: Path) -> list[str]:
    """The author's numbers at the start and the end of a run beside which there is none; four steps reach no other."""
    if not file.is_file():
        return []
    with file.open() as lines:
        found = [line for line in csv.DictReader(lines) if line["step"].startswith(("start", "end"))]
    return [f"{line['what']}, {line['quantity']}" for line in found if line["ours"] in (NONE, "nan")]


def _sealed(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()
