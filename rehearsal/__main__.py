"""The dress rehearsal of a table: runs every row, name and step of it on stand-ins, then checks the results.

python -m rehearsal                       table=paper, all rows
python -m rehearsal rows=sft,dpo          fewer rows; also rows=released or any override
python -m rehearsal table=one_gpu         another scale
python -m rehearsal --diff                print what a rehearsal changes, and what the last one learned; run nothing
python -m rehearsal --go-on               resume an interrupted rehearsal instead of starting over
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from focalpo.config.compose import CONF, compose, compose_table
from focalpo.config.schema import Config, TableConfig
from focalpo.planning.slices import benchmarks
from focalpo.planning.table import compose_rows, split_arguments, with_rows
from focalpo.processes.quiet import quiet
from focalpo.reporting.table_run import TableRun, newest_reports
from focalpo.running.command import run_command
from focalpo.stages.cores import cores, cores_each
from rehearsal.capability import DOCUMENTS
from rehearsal.check import checked
from rehearsal.differences import Change, changes, described, hardware, protocol_changes, stand_ins
from rehearsal.hub import serving
from rehearsal.learned import Learned, described_rows, faults, learned
from rehearsal.stage import build, endpoints, environment, judge

RUNS = CONF.parent / "runs" / "rehearsal"
FLAGS = ("--diff", "--go-on")


def rehearse(arguments: list[str]) -> None:
    """Run the requested table; unless it goes on, its folder is emptied first.

    Raises:
        ValueError: when the run fails, leaves a gap in the table or in the chain of stages, or has rows that learned
            nothing or the same.
    """
    quiet(cores_each(1))
    flags = {each for each in arguments if each in FLAGS}
    own, overrides = split_arguments([each for each in arguments if each not in flags])
    table = with_rows(compose_table(own.setdefault("table", "paper")), own)
    paper = compose_rows(table, overrides)
    runs = Path(next((each.removeprefix("runs=") for each in overrides if each.startswith("runs=")), RUNS)).resolve()
    if not flags:
        shutil.rmtree(runs, ignore_errors=True)
    folder = runs / ".stand-ins"  # a fixed place: a protocol's path is part of the keys of the stages that use it
    starts = {name: str(compose(column.overrides).model.path) for name, column in table.settings.items()}
    repositories = build(paper, starts, folder / "hub")
    first = next(iter(paper.values()))
    with serving(repositories) as hub, judge(folder) as address:
        changed = [*hardware(first), "reference.must_fit=false", f"runs={runs}"]
        changed += endpoints(first, repositories, folder / "eval", address)
        tell(table, first, changes(paper, compose_rows(table, [*overrides, *changed])), folder / "eval")
        if "--diff" in flags:
            for report in newest_reports(runs, table.study or table.scale)[:1]:
                tell_learned(report, folder / "hub")
            return
        started = time.monotonic()
        table_arguments = [f"{key}={value}" for key, value in own.items()]
        command = [sys.executable, "-m", "recipes.reproduce", *table_arguments, *overrides, *changed]
        variables = environment(hub, folder / "home", first.judge.endpoint.api_key_env)
        ended = subprocess.run(command, env=variables, cwd=CONF.parent)
    if ended.returncode:
        raise ValueError(f"the rehearsal exited with status {ended.returncode}; its stages are in {runs}")
    print(checked(runs, table))
    rows = tell_learned(newest_reports(runs)[0], folder / "hub")
    if found := faults(rows, table, paper):
        raise ValueError("\n".join(found))
    print(f"rehearsed in {(time.monotonic() - started) / 60:.1f} min on {cores()} cores")


def tell(table: TableConfig, first: Config, found: dict[str, set[Change]], protocols: Path) -> None:
    """Print the differences from the scale that is rehearsed."""
    print(f"differences from the {table.scale} scale, over all rows")
    print(described(found))
    print(stand_ins())
    if first.capability.suite is not None:
        print(f"  stand-in  tasks    {DOCUMENTS} documents of each task of lm-eval's, one of each part of MMLU")
    for protocol in benchmarks(first).values():
        print(f"  protocol  {protocol:32} " + ", ".join(protocol_changes(protocol, protocols)))


def tell_learned(report: Path, hub: Path) -> list[Learned]:
    """Print and return what the rows of a report learned."""
    rows = learned(TableRun.read(report), hub)
    if told := described_rows(rows):  # nothing where released checkpoints are judged
        print(told)
    return rows


if __name__ == "__main__":
    run_command(lambda: rehearse(sys.argv[1:]))
