"""Benchmark this training engine: its speed beside TRL on the same pairs, the gain of each speed-up, how cost grows.

python -m recipes.bench                                        on this machine's CPU, about an hour
python -m recipes.bench bench=gpu                              on one GPU
python -m recipes.bench parts=[peers] repeats=5 pairs_file=pairs.parquet
python -m recipes.bench bench=smollm2 model=runs/convert/NAME/model pairs_file=pairs.parquet    a released model

Each measurement runs in its own process and is saved, so the same command resumes where it stopped.
"""

import hashlib
import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from focalpo.config.bench import BenchSettings
from focalpo.config.compose import plain
from focalpo.data.sources import FileSource, load, sample
from focalpo.data.tokens import pair_trees
from focalpo.data.trees import Tree
from focalpo.data.truncation import Limits
from focalpo.planning.bench import planned_bench
from focalpo.planning.growth import costs
from focalpo.planning.table import planned
from focalpo.running.command import run_command
from focalpo.speed import columns, tables
from focalpo.speed.figures import growth_figure, scales_figure
from focalpo.speed.kept import measured
from focalpo.speed.measurements import Measurement, measurements
from focalpo.speed.planner import Dealt, dealt
from focalpo.speed.workload import draw
from focalpo.stages.folder import write_json
from focalpo.stages.origin import hardware
from focalpo.stages.reading import read_json
from focalpo.training.model import ModelSource, load_tokenizer
from focalpo.training.scratch import bpe_tokenizer

PLANNED = ((8, 128), (64, 128), (64, 512))  # ranks, pairs
PLANNED_BATCHES = 50
SCALES = ("laptop", "paper")
MOST_TOKENISED = 1000  # pairs; a run takes a few of them
HELD_OUT = 0.01  # a source must hold some pairs out; the lengths come from the rest
PLANNED_TOKENS = 16384  # per micro-batch, as in conf/train at paper scale


def bench(arguments: list[str]) -> None:
    """Run the missing measurements and print the tables."""
    name, config = planned_bench(arguments)
    plan = measurements(config, real_pairs(config))
    folder = Path(config.out) / f"{name}-{_key(config)}"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    for place, measurement in enumerate(plan, 1):
        results[measurement.name] = measured(folder, measurement)
        print(f"[{place}/{len(plan)}] {measurement.name}", flush=True)
    report(config, plan, results, folder)


def real_pairs(config: BenchSettings) -> list[Tree]:
    """The pairs in the configured file, in tokens of the released model or of a vocabulary learned from its texts."""
    if config.pairs_file is None:
        return []
    tokenizer = load_tokenizer(ModelSource(config.model)) if config.model else None
    print(f"reading {config.pairs_file}, in tokens of {config.model or 'a vocabulary learned from it'}", flush=True)
    pairs = load(FileSource(Path(config.pairs_file), None, HELD_OUT), "drop").train
    if tokenizer is None:
        tokenizer = bpe_tokenizer([text for p in pairs for text in (p.prompt[-1]["content"], p.chosen, p.rejected)])
    else:
        pairs = sample(pairs, MOST_TOKENISED)
    return pair_trees(tokenizer, pairs, Limits(1 << 14, 1 << 15, "keep_prompt"), [tokenizer.eos_token_id]).trees


def report(config: BenchSettings, plan: list[Measurement], results: dict[str, dict], folder: Path) -> None:
    """Print every table and write it to the folder of the measurements."""
    print(f"\n{_machine()}, {config.train.dtype}; medians of {config.repeats}\n")
    rows = {
        "peers": lambda: tables.comparison(plan, results),
        "ablations": lambda: tables.ablation(plan, results),
        "growth": lambda: tables.growth(plan, results, config.growth.objectives),
        "planner": lambda: tables.planner(plans(config, folder / "planner.json")),
    }
    for part in config.parts:
        table = rows[part]()
        columns.write_csv(table, folder / f"{part}.csv")
        print(f"{part}\n{columns.text(table)}\n")
        if part == "growth":
            growth_figure(table, folder / "growth.png")
            scales_figure(scales := at_scale(config), folder / "scales.png")
            columns.write_csv(scales, folder / "scales.csv")
            print(f"hours of a table's trainings, estimates\n{columns.text(scales)}\n")
    print(folder)


def plans(config: BenchSettings, kept: Path) -> list[Dealt]:
    """Deal full-size global batches of the first lengths to more ranks than this machine has; `kept` caches them."""
    if kept.is_file():
        return [Dealt(**values) for values in read_json(kept, "delete it")]
    lengths = next(iter(config.lengths.values()))
    deals = []
    for ranks, pairs in PLANNED:
        batches = [[sum(row) for row in draw(lengths, pairs, 1.0, seed)] for seed in range(PLANNED_BATCHES)]
        deals.append(dealt(batches, ranks, PLANNED_TOKENS))
    write_json(kept, [asdict(each) for each in deals])
    return deals


def at_scale(config: BenchSettings) -> list[columns.Row]:
    """What the trainings of the tables cost as they grow, at the rate of those that are sealed in the runs folder."""
    return [asdict(cost) for scale in SCALES for cost in costs(planned([f"table={scale}", f"runs={config.runs}"]))]


def _key(config: BenchSettings) -> str:
    """Hash of what a measurement depends on: every setting but `parts`, `repeats`, `out` and `runs`."""
    settings = plain(replace(config, parts=[], repeats=0, out="", runs=""))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def _machine() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{hardware()['cores']} cores of {platform.processor() or platform.machine()}"


if __name__ == "__main__":
    run_command(lambda: bench(sys.argv[1:]))
