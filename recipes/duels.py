"""Judge the rows of a table against each other, on the same prompts and in both orders, and rate them all.

python -m recipes.duels                                     every row of the pocket table against DPO
python -m recipes.duels pairs=focalpo:dpo,sft:dpo           these pairs; pairs=all: every two rows
python -m recipes.duels table=paper rows=dpo,focalpo        the rows, seeds and overrides of any table with a judge
python -m recipes.duels table=paper --plan                  the calls and what they cost; starts nothing
python -m recipes.duels --simulate                          what duels detect at equal calls, in the pocket world

A row against a common baseline needs two sets of verdicts for one difference; a duel needs one, and none where both
rows give the same answer. Seed 1 meets seed 1: rows that share it share data order and sampling.
"""

import sys
from dataclasses import replace

from focalpo.config.mistakes import Mistake
from focalpo.judging.dispatch import judged_by
from focalpo.judging.duels import games_of, pairs_of, task_of
from focalpo.judging.earlier import OPPONENT
from focalpo.planning.duels import planned_duels
from focalpo.planning.stages import in_order
from focalpo.planning.table import Planned
from focalpo.pocket.rivals import KINDS, ORDERS, compared
from focalpo.reporting.duel_tables import as_csv, as_markdown, as_text, ratings_csv
from focalpo.reporting.duels import results_of
from focalpo.reporting.provenance import chain, dirty, warnings_of
from focalpo.reporting.tables import aligned
from focalpo.running.command import duels_left_to_slurm, run_command
from focalpo.running.partial import complete
from focalpo.running.schedule import run_stages
from focalpo.scoring.power import detected, smallest_detected
from focalpo.stages.folder import Folder, Job, Stage
from focalpo.stages.origin import commit, short
from focalpo.stages.records import Completion, read_records, write_records
from recipes.judge import benchmark_of, judge_tasks
from recipes.plan import described
from recipes.reproduce import check_sealed, unmet

CALLS, EXPERIMENTS = 800, 1000
SAME = (0.0, 0.5, 0.7)
"""Shares of equal answers: of rows that share nothing, and about those of FocalPO and DPO, off- and on-policy."""
FILES = {"duels.txt": as_text, "duels.md": as_markdown, "duels.csv": as_csv, "ratings.csv": ratings_csv}


def make_duel(job: Job) -> dict:
    """Fill the job's folder with `<benchmark>.parquet` (games) and `records.jsonl` (requests and replies)."""
    pairs, tasks = {}, {}
    for name in job.settings["protocols"]:
        protocol, questions = benchmark_of(job, name)
        first, second = (
            read_records(job.inputs[side] / f"{name}.parquet", Completion) for side in ("completions", OPPONENT)
        )
        pairs[name] = pairs_of(questions, first, second, protocol)
        tasks[name] = task_of(pairs[name], protocol)
    asked = {name: task for name, task in tasks.items() if task[1]}  # all answers may be equal
    verdicts, facts = judge_tasks(job, asked)
    for name, each in pairs.items():
        write_records(job.path / f"{name}.parquet", games_of(each, verdicts.get(name, [])))
    return facts | {"judged_by": {name: judged_by(protocol) for name, (protocol, _, _) in tasks.items()}}


def make_duels(job: Job) -> dict:
    """Fill the job's folder with the tables of all duels, `duels` as text, Markdown and CSV, and `ratings.csv`."""
    title = f"FocalPO, duels of the {job.settings['table']} table, commit {short(commit())}"
    stages = chain(job.inputs.values())
    results = results_of(job, title, (*warnings_of(stages), *dirty(stages)))
    for name, text in FILES.items():
        (job.path / name).write_text(text(results))
    return {"duels": len(job.inputs)}


def duels(arguments: list[str]) -> None:
    """Run the requested duels, after whatever they need, and print their tables; on a cluster, submit them."""
    if "--simulate" in arguments:
        if len(arguments) > 1:
            raise Mistake("--simulate reads nothing else; give it alone")
        print(simulated())
        return
    plan = planned_duels([each for each in arguments if each != "--plan"])
    if "--plan" in arguments:
        print(described(plan))
        return
    if missing := unmet(plan):
        raise ValueError(missing)
    if duels_left_to_slurm(plan):
        return
    goal, workers = plan.report, plan.first.launch.workers
    check_sealed(plan)
    try:
        run_stages(plan.runs, in_order([goal]), workers)
    except ValueError:
        kept = complete({name: Folder(plan.runs, stage).sealed for name, stage in goal.inputs.items()})
        if kept:  # the pairs that succeeded
            part = replace(goal, inputs={name: stage for name, stage in goal.inputs.items() if name in kept})
            run_stages(plan.runs, [*part.inputs.values(), part], workers)
            _show(plan, part)
        raise
    _show(plan, goal)


def simulated() -> str:
    """The smallest true differences that both comparisons detect, by kind of verdict and share of equal answers."""
    head = ["verdict of the judge", "same answers", "baseline", "duel", "ratio", "by calls alone"]
    rows = [_simulated(name, same) for name in KINDS for same in SAME]
    return (
        f"the smallest true difference, in points of correct answers, that {CALLS} calls detect 4 times in 5:\n"
        f"{aligned([head, *rows])}\n"
        "baseline: both rows against one reference. duel: against each other, in both orders; equal answers are not\n"
        f"asked about. p < .05 in each of {EXPERIMENTS:,} experiments. by calls alone: the ratio if a prompt told as\n"
        "much in both, the root of how many more prompts the same calls pay for in a duel."
    )


def _simulated(name: str, same: float) -> list[str]:
    kind = KINDS[name]
    few, many = CALLS // (2 * kind.games), round(CALLS / ORDERS / (1 - same))
    baseline, duel = _least(name, False, same, few), _least(name, True, same, many)
    numbers = (baseline, duel, baseline / duel, (many / few) ** 0.5)
    return [kind.title, f"{same:.0%}", *(f"{each:.1f}" for each in numbers)]


def _least(name: str, direct: bool, same: float, prompts: int) -> float:
    found = compared(name, direct, same, EXPERIMENTS, prompts)
    return found.gain * smallest_detected(lambda better: detected(found.terms(better)), 1 - same)


def _show(plan: Planned, stage: Stage) -> None:
    """Print the tables and the paths of their files."""
    folder = Folder(plan.runs, stage).path
    print((folder / "duels.txt").read_text())
    for name in FILES:
        print(f"  {folder / name}")


if __name__ == "__main__":
    run_command(lambda: duels(sys.argv[1:]))
