"""Every score and table again, from records alone: no request is sent, no key is read, nothing is trained or generated.

python -m recipes.rescore                            the pocket table, from what is under runs/
python -m recipes.rescore table=paper rows=dpo,focalpo      the rows, seeds and overrides of the table's own command

Verdicts are read anew out of the recorded replies, scores and tables out of those, under RUNS/rescored; all else there
is a link to the sealed stage. What comes out is compared with what was sealed.
"""

import shutil
import sys
from pathlib import Path

from focalpo.planning.stages import Row, in_order, report_stage
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.schedule import run_stages
from focalpo.stages.folder import Folder, Stage
from recipes.reproduce import show

REMADE = ("judge", "report")
OFFLINE = ["judge.endpoint.base_url=null", "judge.endpoint.api_key_env=null"]


def rescore(arguments: list[str]) -> None:
    """Make the verdicts, scores and table that the arguments name again, print them, and say what differs.

    Raises:
        ValueError: when nothing of the table was judged, a record lacks a reply, or verdicts differ from the sealed.
    """
    plan = planned([*arguments, *OFFLINE])
    runs, again = plan.runs, plan.runs / "rescored"
    rows = {place: row for place, row in plan.rows.items() if _judged(runs, row)}
    if not rows:
        raise ValueError(f"nothing of this table was judged under {runs}; make it with recipes.reproduce first")
    report = report_stage(plan.table, rows, arguments)
    stages = in_order([report])
    prepare(runs, again, stages)
    run_stages(again, stages, plan.first.launch.workers)
    show(Folder(again, report).path)
    differing = [title for stage in stages if stage.kind in REMADE for title in _differing(runs, again, stage)]
    if differing:
        raise ValueError(f"{len(differing)} files differ from the sealed ones: {', '.join(differing)}")
    print(f"{len({row.judge.key for row in rows.values()})} judgings rescored from their records, all as sealed")


def prepare(runs: Path, again: Path, stages: list[Stage]) -> None:
    """A folder of runs with every stage but those that are made anew, and for these the records."""
    for kind in REMADE:
        shutil.rmtree(again / kind, ignore_errors=True)
    for stage in stages:
        sealed, place = Folder(runs, stage).path, Folder(again, stage).path
        if stage.kind == "judge":
            place = place.with_name(sealed.name)  # whoever made it first has named it
            place.mkdir(parents=True)
            shutil.copyfile(sealed / "records.jsonl", place / "records.jsonl")
        elif stage.kind not in REMADE and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            (place.parent / sealed.name).symlink_to(sealed.resolve(), target_is_directory=True)
    for record in (runs / "judge").glob(".sentinel-*.json"):
        shutil.copyfile(record, again / "judge" / record.name)


def _judged(runs: Path, row: Row) -> bool:
    return all(Folder(runs, stage).sealed for stage in in_order([row.judge]))


def _differing(runs: Path, again: Path, stage: Stage) -> list[str]:
    """Verdict files of a judging, and tables of a report, that are not byte for byte the sealed ones."""
    sealed, made = Folder(runs, stage), Folder(again, stage).path
    names = sorted(path.name for path in made.iterdir() if path.suffix in (".parquet", ".csv"))
    return [
        f"{stage.title}/{name}"
        for name in names
        if sealed.sealed and (sealed.path / name).read_bytes() != (made / name).read_bytes()
    ]


if __name__ == "__main__":
    run_command(lambda: rescore(sys.argv[1:]))
