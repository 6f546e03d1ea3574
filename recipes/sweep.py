"""Search the hyperparameters of a table's rows, and keep every point that was tried.

python -m recipes.sweep table=paper rows=dpo,focalpo                 the search that the table defines for each row
python -m recipes.sweep rows=focalpo objective.gamma=0,0.05,0.1 train.learning_rate=3e-4,6e-4         or your own search
python -m recipes.sweep table=paper cluster=slurm                    one array task per point; run again for the results
python -m recipes.sweep table=paper points=800                           more than 100 trainings need their number

The best point of a row has the highest reward accuracy on the held-out pairs after training; ties go to the first. No
benchmark and no judge is involved, so that the selection does not use what is judged later.
"""

import csv
import sys
from pathlib import Path

from focalpo.config.schema import Config
from focalpo.planning.needs import Estimate
from focalpo.planning.search import Point, search
from focalpo.planning.stages import in_order, sweep_stage, train_stage
from focalpo.running.command import run_command
from focalpo.running.schedule import run_stages
from focalpo.running.submit import left_to_slurm
from focalpo.stages.folder import Folder, Job, Stage, read_manifest
from focalpo.stages.records import PairState, read_records
from recipes.plan import hours_shown, rate_of

FIELDS = ("setting", "row", "point", "reward_accuracy", "standard_error", "margin", "best")


def sweep(arguments: list[str]) -> None:
    """Train every point of every requested row and print the results.

    Raises:
        ValueError: when the search is wrong or too large, or when a point cannot be trained; the others are still
            trained and shown.
    """
    scale, configs = search(arguments)
    stages = {place: train_stage(config, f"{place[0]}-{place[1]}") for place, config in configs.items()}
    first = next(iter(configs.values()))
    runs, workers = Path(first.runs), first.launch.workers
    print(f"{len(stages)} points{_expected(runs, scale, configs, stages)}")
    tried = [(setting, row, _knobs(point), stage) for (setting, row, point), stage in stages.items()]
    whole = sweep_stage(scale, [*tried])
    if left_to_slurm(runs, whole, first):
        return
    failed: ValueError | None = None
    try:
        run_stages(runs, in_order(list(stages.values())), workers)
    except ValueError as error:
        failed = error
    results = sweep_stage(scale, [(s, r, k, t if Folder(runs, t).sealed else None) for s, r, k, t in tried])
    run_stages(runs, in_order([results]), workers)
    print((Folder(runs, results).path / "sweep.txt").read_text() + f"\n  {Folder(runs, results).path / 'sweep.csv'}")
    if failed:
        raise failed


def _knobs(point: tuple[str, ...]) -> list[str]:
    """A point's overrides without those that say where it runs."""
    return [override for override in point if override.partition("=")[0] not in ("runs", "cluster")]


def _expected(runs: Path, scale: str, configs: dict[Point, Config], stages: dict[Point, Stage]) -> str:
    """What is left of a search, and the rank-hours that the plan's rate gives for its trainings."""
    left = {place: stage for place, stage in stages.items() if not Folder(runs, stage).sealed}
    operations = sum(Estimate(configs[place], runs).training(stage) for place, stage in left.items())
    rate = rate_of(runs, scale, next(iter(configs.values())).launch.gpus)[0]
    return f", {len(left)} trainings left, about {hours_shown(operations / rate / 3600)} rank-hours"


def make(job: Job) -> dict:
    """Fill the job's folder with every point tried and the best of each row: sweep.csv, sweep.txt and search.md."""
    rows = [_result(job, number, point) for number, point in enumerate(job.settings["points"])]
    for setting, row in dict.fromkeys((each["setting"], each["row"]) for each in rows):
        mine = [r for r in rows if (r["setting"], r["row"]) == (setting, row) and r["reward_accuracy"] is not None]
        if mine:
            max(mine, key=lambda each: each["reward_accuracy"])["best"] = "best"
    with (job.path / "sweep.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (job.path / "sweep.txt").write_text("\n".join(_line(row) for row in rows) + "\n")
    (job.path / "search.md").write_text(_markdown(rows))
    return {"points": len(rows), "failed": sum(row["reward_accuracy"] is None for row in rows)}


def _result(job: Job, number: int, point: dict) -> dict:
    result = {"setting": point["setting"], "row": point["row"], "point": " ".join(point["overrides"]), "best": ""}
    folder = job.inputs.get(str(number))
    if folder is None:
        return result | dict.fromkeys(("reward_accuracy", "standard_error", "margin"))
    facts = read_manifest(folder)["facts"]["test"]
    accuracy = facts["reward_accuracy"]
    pairs = len({state.id for state in read_records(folder / "dynamics.parquet", PairState) if state.split == "test"})
    error = (accuracy * (1 - accuracy) / pairs) ** 0.5
    return result | {"reward_accuracy": accuracy, "standard_error": error, "margin": facts["margin"]}


def _markdown(rows: list[dict]) -> str:
    """The points as a table for docs/; the best of a row is bold."""
    lines = ["| row | point | held-out reward accuracy % | margin, nats |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        accuracy, error = (row[name] and f"{100 * row[name]:.1f}" for name in ("reward_accuracy", "standard_error"))
        figures = (f"{accuracy} ±{error}", f"{row['margin']:.1f}") if accuracy else ("failed", "")
        point = f"**{row['point']}**" if row["best"] else row["point"]
        lines.append("| " + " | ".join((row["row"], point, *figures)) + " |")
    lines += ["", "± a standard error; bold: the best point of a row, which its table trains with."]
    return "\n".join(lines) + "\n"


def _line(row: dict) -> str:
    start = f"{row['setting']:10} {row['row']:10} {row['point']:60}"
    if row["reward_accuracy"] is None:
        return f"{start} failed"
    accuracy, error = row["reward_accuracy"], row["standard_error"]
    return f"{start} accuracy {accuracy:.4f} +- {error:.4f}  margin {row['margin']:8.3f} nats  {row['best']}".rstrip()


if __name__ == "__main__":
    run_command(lambda: sweep(sys.argv[1:]))
