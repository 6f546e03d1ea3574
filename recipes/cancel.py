"""Cancel a table's Slurm jobs; sealed stages and checkpoints are kept: python -m recipes.cancel table=paper"""

import sys

from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.slurm import queue, slurm


def cancel(arguments: list[str]) -> None:
    """Cancel the jobs that make the table's stages."""
    plan = planned(arguments)
    if plan.first.cluster.scheduler != "slurm":
        raise ValueError("no jobs to cancel without Slurm; press Ctrl-C where the table runs, or set CLUSTER=slurm")
    keys = {stage.key for stage in in_order([plan.report])}
    jobs = [task.job for task in queue(plan.runs) if task.key in keys]
    if jobs:
        slurm(["scancel", *jobs])
    print(f"{len(jobs)} jobs cancelled; the command that submitted them resumes from what is saved")


if __name__ == "__main__":
    run_command(lambda: cancel(sys.argv[1:]))
