"""Train on the pairs of a file and print how training changed the held-out pairs.

python -m recipes.dynamics data.path=pairs.jsonl.gz
python -m recipes.dynamics data.path=pairs.parquet rows=dpo,focalpo,simpo data.limit=500
"""

import sys
from pathlib import Path

from focalpo.planning.stages import in_order, train_stage
from focalpo.planning.table import composed_table
from focalpo.running.command import run_command
from focalpo.running.schedule import run_stages
from focalpo.stages.folder import Folder, read_manifest
from focalpo.stages.metrics import NONE

COLUMNS = {
    "reward_accuracy": "reward accuracy",
    "ranking_accuracy_start": "ranking accuracy, start",
    "ranking_accuracy_end": "end",
    "ranking_accuracy_per_token_start": "per token, start",
    "ranking_accuracy_per_token_end": "end",
    "margin": "margin (nats)",
}
DIAGNOSTICS = {
    "kl_answers": "change of KL (nats/token)",
    "entropy_chosen": "entropy, chosen",
    "entropy_rejected": "rejected",
    "displaced": "share of chosen that fell",
    "change_chosen": "chosen (nats)",
    "change_rejected": "rejected (nats)",
    "brier": "Brier",
    "calibration_error": "ECE",
}


def compare(arguments: list[str]) -> None:
    """Train each row on the same pairs and print its accuracies on the held-out pairs."""
    table, configs = composed_table(arguments, only="files")
    stages = {row: train_stage(config, row) for (_, row), config in configs.items()}
    first = next(iter(configs.values()))
    runs = Path(first.runs)
    run_stages(runs, in_order(list(stages.values())), first.launch.workers)
    facts = {row: read_manifest(Folder(runs, stage).path)["facts"] for row, stage in stages.items()}
    print(f"\npairs of {first.data.path}")
    for stage in dict.fromkeys(Folder(runs, each.inputs["pairs"]).path for each in stages.values()):
        print(*_kept(read_manifest(stage)["facts"]), sep="\n")
    pairs = next(iter(facts.values()))["test"]["pairs"]
    print(f"\nthe same {pairs} held-out pairs before and after; a tie is half right")
    held_out = {table.rows[row].label: values["test"] for row, values in facts.items()}
    for columns in (COLUMNS, DIAGNOSTICS):
        print(*_lines(columns, held_out), sep="\n", end="\n\n")
    for row, values in facts.items():
        if values["test"]["ties"] == 1:
            print(f"{table.rows[row].label}: training moved no held-out pair; these numbers are no result")


def _lines(columns: dict[str, str], held_out: dict[str, dict[str, float]]) -> list[str]:
    """A table of numbers by row; "-" for one that a loss has not or that an earlier commit did not record."""
    body = [
        f"{label:10}" + "".join(f"{values[name]:26.4f}" if name in values else f"{NONE:>26}" for name in columns)
        for label, values in held_out.items()
    ]
    return [f"{'':10}" + "".join(f"{title:>26}" for title in columns.values()), *body]


def _kept(facts: dict) -> list[str]:
    """What the stage of the pairs says it kept, dropped by reason, and cut; one line each."""
    counts = {name: value for name, value in facts.items() if isinstance(value, int)}
    lines = [", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())]
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{count} {reason}" for reason, count in value.items() if count]
        if isinstance(value, list) and name != "warnings":
            lines.append(f"{name.replace('_', ' ')}: {', '.join(value) or 'none'}")
    return lines


if __name__ == "__main__":
    run_command(lambda: compare(sys.argv[1:]))
