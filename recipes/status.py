"""Show the state of each row of a table, here or in Slurm's queue: python -m recipes.status table=pocket

Whatever else is queued or running in the same folder, as of a search or a single stage, is shown below the rows.

base/dpo/1      train sealed      generate 120/400      judge waits
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.slurm import Task, queue
from focalpo.stages.folder import ERROR, Folder
from focalpo.stages.lock import LOCK, held
from focalpo.stages.reading import read_json


def status(arguments: list[str]) -> None:
    """Print the state of the shared stages and of every row, and why stages failed."""
    plan = planned(arguments)
    tasks = {task.key: task for task in queue(plan.runs)} if plan.first.cluster.scheduler == "slurm" else {}
    stages = in_order([plan.report])
    states = {stage.key: state(Folder(plan.runs, stage), tasks.get(stage.key)) for stage in stages}
    own = {stage.key for row in plan.rows.values() for stage in row.stages()}
    for stage in stages:
        if stage.key not in own:
            print(f"{stage.kind + '/' + stage.name:44} {states[stage.key]}")
    for place, row in plan.rows.items():
        print(
            f"{'/'.join(map(str, place)):24} "
            + " ".join(f"{s.kind} {states[s.key]:<24}" for s in row.stages()).rstrip()
        )
    for stage in stages:
        if states[stage.key] == "failed":
            reason = (Folder(plan.runs, stage).path / ERROR).read_text(errors="replace").strip()
            print(f"{stage.title}: {reason or 'no reason was written; the disk may be full'}")
    for line in others(plan.runs, set(states), tasks):
        print(line)
    sealed = sum(text == "sealed" for text in states.values())
    print(f"{sealed} of {len(stages)} stages are sealed" + _counts(states))


def others(runs: Path, own: set[str], tasks: dict[str, Task]) -> Iterator[str]:
    """A line for each stage that is queued or running in the same folder and is not of the table: of a single stage, a
    search or another table."""
    queued = [task.folder for task in tasks.values()]
    running = [path.parent for path in sorted(runs.absolute().glob(f"[!.]*/*/{LOCK}")) if held(path.parent)]
    for path in dict.fromkeys([*queued, *running]):
        key = path.name.rpartition("-")[2]
        with contextlib.suppress(ValueError):  # no stage, or one that was edited
            if key not in own and not (folder := Folder.at(path)).sealed:
                title = f"{path.parent.name}/{path.name}"
                yield f"{title:44} {state(folder, tasks.get(key))}, not of this table"


def state(folder: Folder, task: Task | None) -> str:
    """The stage's state in a few words; Slurm's own where it has the stage in its queue."""
    if folder.sealed:
        return "sealed"
    if task is not None and task.state == "PENDING":
        return f"queued ({task.job}, {task.reason})"
    if task is not None or held(folder.path):
        return f"{_progress(folder.path)}" + (f" ({task.job})" if task else "")
    if (folder.path / ERROR).is_file():
        return "failed"
    return "stopped" if (folder.path / LOCK).exists() else "waits"


def _progress(path: Path) -> str:
    if not (path / "progress.json").is_file():
        return "running"
    progress = read_json(path / "progress.json", "delete it")
    return f"{progress['done']}/{progress['total']}"


def _counts(states: dict[str, str]) -> str:
    words = [text.split()[0] for text in states.values() if text != "sealed"]
    running = sum("/" in word or word == "running" for word in words)
    counts = {"running": running} | {word: words.count(word) for word in ("queued", "failed", "stopped", "waits")}
    return "".join(f", {count} {word}" for word, count in counts.items() if count)


if __name__ == "__main__":
    run_command(lambda: status(sys.argv[1:]))
