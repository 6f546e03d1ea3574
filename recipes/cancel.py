"""Cancel Slurm jobs; sealed stages and checkpoints are kept.

python -m recipes.cancel table=paper cluster=slurm                       the jobs of a table
python -m recipes.cancel sweep/paper train/dpo-s1 cluster=slurm          these stages, single ones or searches, and
                                                                         what only they wait for
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from focalpo.config.mistakes import Mistake, choose
from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.slurm import Task, queue, slurm
from focalpo.stages.folder import Job


def cancel(arguments: list[str]) -> None:
    """Cancel the jobs that make the table's stages, or those of the stages that are named."""
    names = [each for each in arguments if "=" not in each]
    plan = planned([each for each in arguments if each not in names])
    if plan.first.cluster.scheduler != "slurm":
        raise ValueError("no jobs to cancel without Slurm; press Ctrl-C where the table runs, or set CLUSTER=slurm")
    tasks = queue(plan.runs)
    keys = only_needed(names, tasks) if names else {stage.key for stage in in_order([plan.report])}
    jobs = [task.job for task in tasks if task.key in keys]
    if jobs:
        slurm(["scancel", *jobs])
    print(f"{len(jobs)} jobs cancelled; the command that submitted them resumes from what is saved")
    if left := sorted(_title(task.folder) for task in tasks if task.key not in keys):
        print(f"{len(left)} others are left, as {left[-1]}; make cancel STAGE={left[-1]} cancels one")


def only_needed(names: Sequence[str], tasks: Sequence[Task]) -> set[str]:
    """The keys of queued stages given as KIND/NAME-KEY or KIND/NAME, and of all that nothing else in the queue needs.

    Raises:
        ValueError: when a stage is not in the queue.
    """
    named: set[str] = set()
    for name in names:
        found = {task.key for task in tasks if name in (_title(task.folder), _title(task.folder).rpartition("-")[0])}
        if not found:
            titles = dict.fromkeys(_title(task.folder) for task in tasks)
            raise Mistake(f"{name} is not in the queue; {choose(name, titles)}")
        named |= found
    needed = {task.key: set(_inputs(task.folder)) for task in tasks}
    wanted = named.union(*(needed[key] for key in named))
    kept = [needed[task.key] for task in tasks if task.key not in wanted and not needed[task.key] & named]
    return named | wanted.difference(*kept)


def _inputs(folder: Path) -> Iterator[str]:
    """The keys of what a stage needs, directly or through others, as far as their folders are there."""
    if (folder / "stage.json").is_file():
        for path in Job.read(folder).inputs.values():
            yield path.name.rpartition("-")[2]
            yield from _inputs(path)


def _title(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


if __name__ == "__main__":
    run_command(lambda: cancel(sys.argv[1:]))
