"""Recompute every score and table from records alone: sends no request, reads no key, trains and generates nothing.

python -m recipes.rescore                            the pocket table, from runs/
python -m recipes.rescore table=paper rows=dpo,focalpo      the rows, seeds and overrides of the table's own command

Verdicts are parsed again from the recorded replies, answers checked by code are checked again, and scores and tables
are computed from them, under RUNS/rescored; everything else there links to the sealed stages. The results are compared
with the sealed ones.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from focalpo.judging.earlier import RECORDS, earlier_records, take_records
from focalpo.judging.sentinel import openings
from focalpo.planning.stages import Row, in_order, report_stage
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.schedule import run_stages
from focalpo.stages.folder import Folder, Stage
from recipes.judge import benchmark_of, sentinel_of
from recipes.reproduce import show

REMADE = ("judge", "check", "report")
OFFLINE = {"base_url": None, "api_key_env": None}


def rescore(arguments: list[str]) -> None:
    """Recompute the verdicts, scores and table that the arguments name, print the table, and report differences.

    Raises:
        ValueError: when nothing of the table was judged, a record lacks a reply, or a file differs from the sealed one.
    """
    plan = planned(arguments)
    runs, again = plan.runs, plan.runs / "rescored"
    rows = {place: _offline(row) for place, row in plan.rows.items() if _judged(runs, row)}
    if not rows:
        raise ValueError(f"no row of this table is scored under {runs}; run recipes.reproduce first")
    report = report_stage(plan.table, rows, arguments)
    stages = in_order([report])
    prepare(runs, again, stages)
    run_stages(again, stages, plan.first.launch.workers)
    show(Folder(again, report).path)
    differing = [title for stage in stages if stage.kind in REMADE for title in _differing(runs, again, stage)]
    if differing:
        raise ValueError(f"{len(differing)} files differ from the sealed ones: {', '.join(differing)}")
    _tell_made(runs, [stage for row in rows.values() for stage in row.scored() if stage.kind in REMADE])


def _tell_made(runs: Path, scored: list[Stage]) -> None:
    """Print what was made again, by kind: what is sealed here, and what only its judge's earlier records are of."""
    folders = {stage.key: Folder(runs, stage) for stage in scored}
    for kind in dict.fromkeys(stage.kind for stage in scored):
        sealed = [folder.sealed for folder in folders.values() if folder.job.kind == kind]
        if earlier := sealed.count(False):
            source = " from the records of their judge" * (kind == "judge")
            print(f"rescored {earlier} {kind} stages of changed code{source}; nothing to compare")
        if sum(sealed):
            print(f"rescored {sum(sealed)} {kind} stages from their records, all as sealed")


def prepare(runs: Path, again: Path, stages: list[Stage]) -> None:
    """Set up a runs folder with links to the stages that are kept, and with the records of those that run again."""
    for kind in REMADE:
        shutil.rmtree(again / kind, ignore_errors=True)
    for stage in stages:
        sealed, place = Folder(runs, stage).path, Folder(again, stage).path
        if stage.kind == "judge":
            place = place.with_name(sealed.name)  # keep the name of the existing folder
            place.mkdir(parents=True)
            _put_records(Folder(runs, stage), place)
        elif stage.kind not in REMADE and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            (place.parent / sealed.name).symlink_to(sealed.resolve(), target_is_directory=True)
    for record in (runs / "judge").glob(".sentinel-*.json"):
        shutil.copyfile(record, again / "judge" / record.name)


def _put_records(sealed: Folder, place: Path) -> None:
    """Copy the stage's own records or, where its code has changed since, those of the same judge and answers, without
    the sentinel's: a reply that is read twice does not show how far a judge repeats itself."""
    if not sealed.sealed:
        job = sealed.job
        protocols = [benchmark_of(job, name)[0] for name in job.settings["protocols"]]
        take_records(job, place, anew=openings(sentinel_of(job), protocols))
    elif (sealed.path / RECORDS).is_file():
        shutil.copyfile(sealed.path / RECORDS, place / RECORDS)
    else:
        raise ValueError(f"{sealed.path} has no {RECORDS}, from which its scores are recomputed; restore it")


def _offline(row: Row) -> Row:
    """The row with the judge that it had, of which only the records are read."""
    if row.judge is None:
        return row
    launch = row.judge.launch | {"endpoint": row.judge.launch["endpoint"] | OFFLINE}
    return replace(row, judge=replace(row.judge, launch=launch))


def _judged(runs: Path, row: Row) -> bool:
    return bool(row.scored()) and all(_can_be_made(runs, stage) for stage in row.scored())


def _can_be_made(runs: Path, stage: Stage) -> bool:
    """Whether the stage's inputs are sealed, and the replies recorded that a judge stage needs."""
    inputs = all(Folder(runs, each).sealed for each in in_order(list(stage.inputs.values())))
    folder = Folder(runs, stage)
    return inputs and (folder.sealed or stage.kind != "judge" or bool(earlier_records(folder.job)))


def _differing(runs: Path, again: Path, stage: Stage) -> list[str]:
    """The verdict files of a judge stage and the tables of a report that are not byte for byte the sealed ones."""
    sealed, recomputed = Folder(runs, stage), Folder(again, stage).path
    names = sorted(path.name for path in recomputed.iterdir() if path.suffix in (".parquet", ".csv"))
    return [
        f"{stage.title}/{name}"
        for name in names
        if sealed.sealed and (sealed.path / name).read_bytes() != (recomputed / name).read_bytes()
    ]


if __name__ == "__main__":
    run_command(lambda: rescore(sys.argv[1:]))
