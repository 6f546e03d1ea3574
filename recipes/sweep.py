"""Search the hyperparameters of a table's rows, and keep every point that was tried.

python -m recipes.sweep table=paper rows=dpo,focalpo                 the search that the table defines for each row
python -m recipes.sweep rows=focalpo objective.gamma=0,0.05,0.1 train.learning_rate=3e-4,6e-4         or your own search
python -m recipes.sweep table=paper cluster=slurm                    one array task per point; run again for the results
python -m recipes.sweep table=paper points=800                           more than 100 trainings need their number

The best point of a row has the highest score on the held-out pairs after training, by the table's `search_by`:
reward_accuracy, the share of pairs whose chosen answer has gained more log-prob than the rejected one, which every
method has, with or without a reference; or answer_reward, the mean reward of the model's own answers to their prompts,
where code computes the reward that labels pairs. It is the mean over seeds and over the settings that share the row's
values; of equal points the first is taken. No benchmark and no judge is involved, so that the selection does not use
what is judged later. Where a row trains with other values than its search chose, a line says so.
"""

import sys
from dataclasses import replace
from pathlib import Path

from focalpo.config.schema import Config
from focalpo.planning.chosen import (
    SCORES,
    Result,
    Score,
    Tried,
    as_csv,
    chosen,
    chosen_page,
    search_page,
    tried,
    undeclared,
)
from focalpo.planning.needs import Estimate
from focalpo.planning.search import Place, Training, held_out_stage, search, sweep_stage
from focalpo.planning.stages import in_order, train_stage
from focalpo.running.command import run_command
from focalpo.running.schedule import run_stages
from focalpo.running.submit import left_to_slurm
from focalpo.stages.folder import Folder, Job, Stage, read_manifest
from focalpo.stages.records import PairState, read_records
from recipes.plan import hours_shown, rate_of


def sweep(arguments: list[str]) -> None:
    """Train every point of every requested row and print the results.

    Raises:
        ValueError: when the search is wrong or too large, or when a point cannot be trained; the others are still
            trained and shown.
    """
    table, configs = search(arguments)
    stages = {place: train_stage(config, f"{place[0]}-{place[1]}") for place, config in configs.items()}
    first = next(iter(configs.values()))
    runs, workers, name = Path(first.runs), first.launch.workers, table.study or table.scale
    print(f"{len(stages)} trainings{_expected(runs, table.scale, configs, stages)}")
    trainings = [
        Training(place[0], table.settings[place[0]].experiments, place[1], _knobs(place[2]), stage, answers)
        for place, stage in stages.items()
        for answers in [held_out_stage(table, configs[place], stage)]
    ]
    if left_to_slurm(runs, sweep_stage(name, table.search_by, trainings), first):
        return
    failed: ValueError | None = None
    goals = {place: each for place, each in enumerate(each.answers or each.stage for each in trainings) if each}
    try:
        run_stages(runs, in_order(list(goals.values())), workers)
    except ValueError as error:
        failed = error
    lost = [place for place, goal in goals.items() if not Folder(runs, goal).sealed]
    done = [replace(each, stage=None, answers=None) if place in lost else each for place, each in enumerate(trainings)]
    results = sweep_stage(name, table.search_by, done)
    run_stages(runs, in_order([results]), workers)
    folder = Folder(runs, results).path
    lines = [*undeclared(table, chosen((folder / "sweep.csv").read_text())), f"  {folder / 'sweep.csv'}"]
    print((folder / "sweep.txt").read_text() + "\n" + "\n".join(lines))
    if failed:
        raise failed


def _knobs(point: tuple[str, ...]) -> list[str]:
    """A point's overrides without those that say where it runs."""
    return [override for override in point if override.partition("=")[0] not in ("runs", "cluster")]


def _expected(runs: Path, scale: str, configs: dict[Place, Config], stages: dict[Place, Stage]) -> str:
    """What is left of a search, and the rank-hours that the plan's rate gives for its trainings."""
    left = {place: stage for place, stage in stages.items() if not Folder(runs, stage).sealed}
    operations = sum(Estimate(configs[place], runs).training(stage) for place, stage in left.items())
    rate = rate_of(runs, scale, next(iter(configs.values())).launch.gpus)[0]
    return f", {len(left)} left, about {hours_shown(operations / rate / 3600)} rank-hours of training"


def make(job: Job) -> dict:
    """Fill the job's folder with every point tried, sweep.csv, sweep.txt and search.md, and the best, chosen.md."""
    results = [_result(job, number, point) for number, point in enumerate(job.settings["points"])]
    points, by = tried(results), SCORES[job.settings["by"]]
    (job.path / "sweep.csv").write_text(as_csv(points))
    (job.path / "sweep.txt").write_text("\n".join(_line(point, by) for point in points) + "\n")
    (job.path / "search.md").write_text(search_page(points, by))
    (job.path / "chosen.md").write_text(chosen_page(points, by))
    return {"points": len(points), "trainings": len(results), "failed": sum(each.score is None for each in results)}


def _result(job: Job, number: int, point: dict) -> Result:
    place = Result(point["setting"], point["experiments"], point["row"], point["overrides"])
    folder = job.inputs.get(str(number))
    if folder is None:
        return place
    test = read_manifest(folder)["facts"]["test"]
    pairs = len({state.id for state in read_records(folder / "dynamics.parquet", PairState) if state.split == "test"})
    share = test["reward_accuracy"]
    found = replace(
        place, accuracy=share, margin=test["margin"], score=share, error=(share * (1 - share) / pairs) ** 0.5
    )
    if job.settings["by"] == "reward_accuracy":
        return found
    answers = read_manifest(job.inputs[f"{number}/answers"])["facts"]
    return replace(found, score=answers["reward"], error=answers["standard_error"])


def _line(point: Tried, by: Score) -> str:
    start = f"{point.experiments + '/' + point.row:24} {' '.join(point.point):60}"
    if point.failed:
        return f"{start} failed"
    best = "best" if point.best else ""
    score = f"{by.name} {by.shown(point.score)} +- {by.shown(point.error)}"
    accuracy = "" if by.name == "accuracy" else f"  accuracy {point.accuracy:.3f}"
    return f"{start} {score}{accuracy}  margin {point.margin:8.3f} nats  {best}".rstrip()


if __name__ == "__main__":
    run_command(lambda: sweep(sys.argv[1:]))
