"""Measure training steps on this machine to calibrate the plan's estimates.

python -m recipes.calibrate                            the pocket table's first training
python -m recipes.calibrate table=paper rows=dpo       another table's, with random weights and tokens of its sizes

One process per worker of the table measures at the same time, because its stages run that way. The rate (operations per
second of a rank) goes to rate-<table>.json in the runs folder, where `make plan` reads it for that table.
"""

import json
import sys
from dataclasses import replace

from focalpo.config.mistakes import Mistake
from focalpo.planning.needs import Estimate
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.speed.rate import measure_side_by_side
from focalpo.stages.folder import write_json
from focalpo.stages.origin import hardware
from focalpo.training.settings import TrainSettings
from recipes.plan import RATE

MOST_LAYERS = 4  # depth hardly changes the rate, and one GPU has no room for 32 layers and Adam


def main(arguments: list[str]) -> None:
    """Measure the table's first training and save the rate.

    Raises:
        ValueError: when the table trains nothing.
    """
    plan = planned(arguments)
    trained = [(place, row.train) for place, row in plan.rows.items() if row.train]
    if not trained:
        raise Mistake("these rows train nothing, so there is no step to measure; name a trained one, as in rows=dpo")
    (setting, row, _), stage = trained[0]
    estimate, workers = Estimate(plan.configs[setting, row], plan.runs), plan.first.launch.workers
    shape = replace(estimate.shape, layers=min(estimate.shape.layers, MOST_LAYERS))
    prompt, answer = estimate.data["prompt"], estimate.data["answer"]
    trees = max(1, estimate.micro_batch(stage).tokens // (prompt + 2 * answer))
    settings = TrainSettings(**stage.settings["train"], **stage.launch["train"])
    measured = measure_side_by_side(workers, (shape, prompt, answer, trees, settings))
    rate = sum(each["operations_per_second"] for each in measured) / workers
    shown = {"training": stage.name, "processes": workers, **measured[0], "operations_per_second": rate}
    print(json.dumps(shown, indent=1))
    plan.runs.mkdir(parents=True, exist_ok=True)
    write_json(plan.runs / RATE.format(plan.table.scale), {"operations_per_second": rate, "hardware": hardware()})


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
