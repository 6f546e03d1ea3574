"""Reproduce Table 1 from scratch: run every missing stage, then write the report.

python -m recipes.reproduce                          the pocket table
python -m recipes.reproduce table=paper              the paper's table (if it cannot run here, prints what it needs)
python -m recipes.reproduce table=paper rows=released    the authors' released checkpoints, only generated and judged
python -m recipes.reproduce table=paper rows=released,dpo,focalpo            some of them
python -m recipes.reproduce rows=dpo,focalpo seeds=1 train.max_steps=20     fewer rows, seeds, any override
python -m recipes.reproduce --quiet                  print only the table and the paths of the report
"""

import sys
import time
from pathlib import Path

from focalpo.planning.stages import in_order, report_stage
from focalpo.planning.table import Planned, planned
from focalpo.running.command import run_command
from focalpo.running.schedule import clock, run_stages
from focalpo.running.submit import left_to_slurm
from focalpo.running.worker import refuse_damaged, repair
from focalpo.stages.folder import Folder
from focalpo.stages.metrics import SCORED
from recipes.doctor import blocking


def reproduce(arguments: list[str]) -> None:
    """Run the requested table and print it; on a cluster, submit it."""
    silent = "--quiet" in arguments
    arguments = [argument for argument in arguments if argument != "--quiet"]
    plan = planned(arguments)
    table, rows, report, runs, first = plan.table, plan.rows, plan.report, plan.runs, plan.first
    if missing := unmet(plan):
        raise ValueError(missing)
    if left_to_slurm(runs, report, first):
        return
    workers, started = first.launch.workers, time.monotonic()
    stages = in_order([report])
    check_sealed(plan)
    try:
        ran = run_stages(runs, stages, workers, silent, scores)
    except ValueError:
        # Report the rows that succeeded; failed rows show "-" in the table.
        judged = {place: row for place, row in rows.items() if all(Folder(runs, s).sealed for s in row.stages())}
        if judged:
            partial = report_stage(table, judged, arguments)
            run_stages(runs, in_order([partial]), workers, silent)
            show(Folder(runs, partial).path)
        raise
    show(Folder(runs, report).path)
    others = "; the others were already sealed" if ran < len(stages) else ""
    elapsed = clock(time.monotonic() - started)
    print(f"ran {ran} of {len(stages)} stages in {elapsed}{others}" if ran else "nothing to do")


def check_sealed(plan: Planned) -> None:
    """Check a sealed report: no other stage reads it, so nothing else would."""
    if Folder(plan.runs, plan.report).sealed:
        # A login node is no place to make its inputs.
        check = refuse_damaged if plan.first.cluster.scheduler == "slurm" else repair
        check(Folder(plan.runs, plan.report).path)


def unmet(plan: Planned) -> str | None:
    """What this machine lacks for the table, as text for the user, or None when the table can start here."""
    missing = blocking(plan)
    if not missing:
        return None
    needs = "\n".join(f"  {name:<12} {value}" for name, value in plan.table.needs.items())
    return (
        f"the {plan.table.scale} table cannot run here; nothing was started\n"
        + "".join(f"  missing      {line}\n" for line in missing)
        + f"what it needs\n{needs}\n"
        + "make reproduce-table1 SCALE=pocket runs the same code and needs none of this"
    )


def scores(folder: Folder) -> str:
    """What a finished stage has scored, long before the table is whole."""
    if folder.path.parent.name not in SCORED:
        return ""
    from focalpo.reporting.scores import in_words  # with numpy and alpaca_eval's model, which other stages do without

    return in_words(folder)


def show(report: Path) -> None:
    """Print the table and the paths of its files."""
    print((report / "table1.txt").read_text())
    for name in ("report.html", "report.md", "report.tex", "table1.csv", "table1.tex", "figures"):
        print(f"  {report / name}")


if __name__ == "__main__":
    run_command(lambda: reproduce(sys.argv[1:]))
