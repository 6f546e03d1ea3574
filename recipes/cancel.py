"""Take a table's jobs out of Slurm's queue; what is sealed or saved stays: python -m recipes.cancel table=paper"""

import sys

from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.submit import queue, slurm


def cancel(arguments: list[str]) -> None:
    """Cancel the jobs that make the table's stages."""
    plan = planned(arguments)
    if plan.first.cluster.scheduler != "slurm":
        raise ValueError(
            "nothing to cancel on this machine: press Ctrl-C where the table is made; CLUSTER=slurm for jobs"
        )
    keys = {stage.key for stage in in_order([plan.report])}
    jobs = [task.job for task in queue(plan.runs) if task.key in keys]
    if jobs:
        slurm(["scancel", *jobs])
    print(f"{len(jobs)} jobs cancelled; the same command that submitted them goes on from what is there")


if __name__ == "__main__":
    run_command(lambda: cancel(sys.argv[1:]))
