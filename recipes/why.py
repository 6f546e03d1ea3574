"""Show the chain behind one number of a table: its value, the stages behind it and the commands that reproduce it.

python -m recipes.why focalpo/base/ae2_lc                      from the newest report that has the cell
python -m recipes.why focalpo/base/ae2_lc runs/report/NAME     from this report
"""

import csv
import sys
from pathlib import Path

from focalpo.config.mistakes import Mistake
from focalpo.reporting.provenance import Chain, chain, commands, warnings_of
from focalpo.reporting.table_run import TableRun, newest_reports
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.folder import read_manifest
from focalpo.stages.metrics import NONE, column_of
from focalpo.stages.origin import short
from focalpo.stages.reading import read_text


def why(cell: str, reports: list[Path]) -> str:
    """Explain `row/setting/column` from the first report that has it.

    Raises:
        ValueError: when no report has the cell, or a file of a report is damaged.
    """
    columns: dict[str, None] = {}
    for report in reports:
        run = TableRun.read(report)
        row, setting, column = parts if len(parts := cell.split("/")) == 3 else ("", "", "")
        scores = _scores(report)
        score = scores.get((setting, row, column))
        # What stands beside the scores has no interval: it is no cell.
        columns |= dict.fromkeys(each for (_, _, each), line in scores.items() if line["low"] != NONE)
        if score is not None and score["low"] != NONE:
            return _explained(run, row, setting, column, score)
    if not reports:
        raise Mistake("there is no report yet: make one, as with make reproduce-table1, then ask again")
    expected = f"ROW/SETTING/COLUMN{' with a column of ' * bool(columns)}{', '.join(columns)}"
    raise Mistake(
        f"no report has a number for {cell!r}; it must be {expected}; searched {', '.join(map(str, reports)) or 'none'}"
    )


def _scores(report: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    file = report / "table1.csv"
    lines = list(csv.DictReader(read_text(file).splitlines()))
    needed = {"setting", "row", "column", "value", "low", "high", "seeds", "prompts"}
    if any(needed - {name for name, value in line.items() if value is not None} for line in lines):
        raise ValueError(f"{file} lacks columns of a table; remove {report} and make the report again")
    return {(line["setting"], line["row"], line["column"]): line for line in lines}


def _explained(run: TableRun, row: str, setting: str, column: str, score: dict[str, str]) -> str:
    value, low, high = (f"{float(score[name]):.1f}" for name in ("value", "low", "high"))
    scored = column_of(column)
    stages = chain(run.seeds(setting, row, scored.stage).values())
    lines = [
        f"{run.rows[row]}, {run.settings[setting]}, {scored.title}: {value} [{low}, {high}]",
        f"{score['seeds']} seeds on {score['prompts']} prompts, in {run.path}",
        "",
        *_stage_lines(stages),
    ]
    if found := warnings_of(stages):
        lines += ["", "warnings", *(f"  {line}" for line in found)]
    if beside := _beside_author(run, row, setting):
        lines += ["", "beside the author's own runs: ours, the author's", *beside]
    commit = read_manifest(run.path)["commit"]
    return "\n".join([*lines, "", "to reproduce it", *(f"  {c}" for c in commands(run, setting, row, commit))])


def _beside_author(run: TableRun, row: str, setting: str) -> list[str]:
    """What the report says of the setting's start model, and of the row's trainings where the author had them too."""
    file, anchors = run.path / "anchors.csv", run.inputs.get(f"anchors/{setting}")
    if anchors is None or not file.is_file():
        return []
    starts = (f"{anchors.name.rpartition('-')[0]}, ", f"{run.settings[setting]}, {run.rows[row]}, seed ")
    lines = [line for line in csv.DictReader(read_text(file).splitlines()) if line["what"].startswith(starts)]
    return [
        f"  {each['what']}, {each['step']}, {each['quantity']}: {each['ours']}, {each['author']}: {each['verdict']}"
        for each in lines
    ]


def _stage_lines(stages: Chain) -> list[str]:
    width = max(map(len, stages))
    lines = []
    for title, manifest in stages.items():
        keys = [name.rpartition("-")[2] for name in manifest["inputs"].values()]
        made_from = f"  from {', '.join(keys)}" if keys else ""
        lines.append(f"{title:<{width}}  {manifest['seconds']:8.1f} s  commit {short(manifest['commit'])}{made_from}")
    return lines


def main(arguments: list[str]) -> None:
    """Print the chain behind the cell that the arguments name, of a report or of the newest that has it."""
    (cell, *reports), _ = words_of("why", arguments)
    print(why(cell, [Path(each) for each in reports] or newest_reports(Path("runs"))))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
