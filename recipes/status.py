"""Show the state of each row of a table, here or in Slurm's queue: python -m recipes.status table=pocket

base/dpo/1      train sealed      generate 120/400      judge waits
"""

import fcntl
import sys
from pathlib import Path

from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.running.slurm import Task, queue
from focalpo.stages.folder import ERROR, LOCK, Folder
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
    sealed = sum(text == "sealed" for text in states.values())
    print(f"{sealed} of {len(stages)} stages are sealed" + _counts(states))


def state(folder: Folder, task: Task | None) -> str:
    """The stage's state in a few words; Slurm's own where it has the stage in its queue."""
    if folder.sealed:
        return "sealed"
    if task is not None and task.state == "PENDING":
        return f"queued ({task.job}, {task.reason})"
    if task is not None or _locked(folder.path):
        return f"{_progress(folder.path)}" + (f" ({task.job})" if task else "")
    if (folder.path / ERROR).is_file():
        return "failed"
    return "stopped" if (folder.path / LOCK).exists() else "waits"


def _locked(path: Path) -> bool:
    """Whether a live process runs the stage."""
    if not (path / LOCK).is_file():
        return False
    with (path / LOCK).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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
