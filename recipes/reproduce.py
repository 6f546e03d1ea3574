"""Table 1, from nothing to numbers: every stage that is missing, then the report.

python -m recipes.reproduce                          the pocket table
python -m recipes.reproduce table=paper              the paper's (says what it needs where it cannot run)
python -m recipes.reproduce table=paper rows=released    the checkpoints of the authors, generated and judged only
python -m recipes.reproduce table=paper rows=released,dpo,focalpo            some of them
python -m recipes.reproduce rows=dpo,focalpo seeds=1 train.max_steps=20     fewer rows, seeds, any override
python -m recipes.reproduce --quiet                  only the table and where everything is
"""

import sys
import time
from pathlib import Path

from focalpo.planning.stages import in_order, report_stage
from focalpo.planning.table import Planned, planned
from focalpo.running.command import run_command
from focalpo.running.schedule import clock, run_stages
from focalpo.running.submit import submit
from focalpo.running.worker import repair
from focalpo.stages.folder import Folder
from recipes.doctor import blocking


def reproduce(arguments: list[str]) -> None:
    """Make the table that the arguments ask for and print it; on a cluster, submit it."""
    silent = "--quiet" in arguments
    arguments = [argument for argument in arguments if argument != "--quiet"]
    plan = planned(arguments)
    table, rows, report, runs, first = plan.table, plan.rows, plan.report, plan.runs, plan.first
    if missing := unmet(plan):
        raise ValueError(missing)
    if first.cluster.scheduler == "slurm" and not Folder(runs, report).sealed:
        print(submit(runs, report, first.cluster))
        return
    workers, started = first.launch.workers, time.monotonic()
    stages = in_order([report])
    if Folder(runs, report).sealed:
        repair(Folder(runs, report).path)  # the one stage that no other one reads
    try:
        made = run_stages(runs, stages, workers, silent)
    except ValueError:
        # What came through is worth a table of its own: rows that failed are "-" in it.
        judged = {place: row for place, row in rows.items() if all(Folder(runs, s).sealed for s in row.stages())}
        if judged:
            partial = report_stage(table, judged, arguments)
            run_stages(runs, in_order([partial]), workers, silent)
            show(Folder(runs, partial).path)
        raise
    show(Folder(runs, report).path)
    others = ", the others were sealed already" if made < len(stages) else ""
    took = f" in {clock(time.monotonic() - started)}"
    print(f"{made} of {len(stages)} stages were made{took}{others}" if made else "nothing to do")


def unmet(plan: Planned) -> str | None:
    """One screen of what this machine lacks for the table, or None when it can start here."""
    missing = blocking(plan)
    if not missing:
        return None
    needs = "\n".join(f"  {name:<12} {value}" for name, value in plan.table.needs.items())
    return (
        f"the {plan.table.scale} table cannot run here, nothing was started\n"
        + "".join(f"  missing      {line}\n" for line in missing)
        + f"what it needs\n{needs}\n"
        + "the same code runs everywhere: make reproduce-table1 SCALE=pocket needs none of this"
    )


def show(report: Path) -> None:
    """Print the table and where its files are."""
    print((report / "table1.txt").read_text())
    for name in ("report.html", "report.md", "report.tex", "table1.csv", "table1.tex", "figures"):
        print(f"  {report / name}")


if __name__ == "__main__":
    run_command(lambda: reproduce(sys.argv[1:]))
