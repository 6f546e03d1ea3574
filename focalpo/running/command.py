"""Code that the recipes' command lines share: compose, plan, run missing stages, show progress, explain errors."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from focalpo.config.compose import compose
from focalpo.config.mistakes import USAGE, Mistake
from focalpo.config.schema import Config
from focalpo.planning.duels import expected, planned_duels
from focalpo.planning.stages import in_order, pairs_stage, row_stages, train_stage
from focalpo.planning.table import Planned, about_table, anchored, composed_table, planned
from focalpo.running.schedule import run_stages
from focalpo.running.stopping import STOPPED
from focalpo.running.submit import left_to_slurm
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.stages.reading import os_remedy

GOALS: dict[str, Callable[[Config], Stage]] = {
    "pairs": pairs_stage,
    "train": lambda config: train_stage(config, config.objective.name),
    "generate": lambda config: row_stages(config, config.objective.name).generate,
    "judge": lambda config: _scored(config, "judge"),
    "check": lambda config: _scored(config, "check"),
    "capability": lambda config: _scored(config, "capability"),
}


def _scored(config: Config, kind: str) -> Stage:
    row = row_stages(config, config.objective.name)
    found = {stage.kind: stage for stage in row.scored()}
    if kind not in found:
        raise Mistake(f"{kind} has nothing to do in this configuration; choose something by {kind}=NAME")
    return found[kind]


def run_single(goal: str) -> None:
    """Run one stage and everything it needs, configured by the command line's overrides, and print its facts; on a
    cluster, submit them."""

    def command() -> None:
        config = compose(sys.argv[1:])
        stage = GOALS[goal](config)
        runs = Path(config.runs)
        if left_to_slurm(runs, stage, config):
            return
        run_stages(runs, in_order([stage]), config.launch.workers)
        folder = Folder(runs, stage).path
        print(json.dumps(read_manifest(folder)["facts"], indent=1))
        print(folder)

    run_command(command)


def leave_to_slurm(name: str) -> None:
    """Submit what a command line asks for, and exit, before the recipe is imported: a login node may have none of the
    packages that fill a folder. Returns where nothing is left to a cluster.

    The other commands that submit, of a table and of a search, import none themselves.
    """

    def leave_anchors() -> None:
        if anchors_left_to_slurm(planned(about_table(sys.argv[1:], "author"))):
            sys.exit()

    def leave_duels() -> None:
        plan = planned_duels(sys.argv[1:])
        if plan.first.cluster.scheduler == "slurm" and duels_left_to_slurm(plan):
            sys.exit()

    if name in GOALS and compose(sys.argv[1:]).cluster.scheduler == "slurm":
        run_single(name)
        sys.exit()
    if name == "anchors" and _first(about_table(sys.argv[1:], "author")).cluster.scheduler == "slurm":
        run_command(leave_anchors)
    if name == "duels" and not any(each.startswith("--") for each in sys.argv[1:]):
        run_command(leave_duels)


def _first(arguments: list[str]) -> Config:
    return next(iter(composed_table(arguments)[1].values()))


def anchors_left_to_slurm(plan: Planned) -> bool:
    """As `left_to_slurm`, for the start models that a table compares with the author's."""
    stages = {stage.key: stage for stage in anchored(plan).values()}
    return any([left_to_slurm(plan.runs, stage, plan.first) for stage in stages.values()])


def duels_left_to_slurm(plan: Planned) -> bool:
    """As `left_to_slurm`, for duels, after a line on what the judge would take for them."""
    if not Folder(plan.runs, plan.report).sealed:
        print(expected(plan), flush=True)
    return left_to_slurm(plan.runs, plan.report, plan.first)


def run_command(command: Callable[[], None]) -> None:
    """Run a command; a user error ends it with an explanation instead of a traceback, as an error of a file does."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that child processes are asked to stop
    try:
        command()
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(USAGE)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader of our output has exited, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {os_remedy(error)}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
