"""Measure training steps on this machine, and hold the plan's arithmetic against them.

python -m recipes.calibrate                            the pocket table's first training
python -m recipes.calibrate table=paper rows=dpo       another table's, with random weights and tokens of its sizes

As many processes as the table's workers measure at once, since that is how its stages run. The rate (operations a
second of a rank) goes to rate-<table>.json in the runs' folder, from where `make plan` takes it for that table. A
process measures one rank: what ranks spend on waiting for each other is not counted.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focalpo.artifact import write_json
from focalpo.cost import Batch, Shape, training_memory, training_operations
from focalpo.data.tokens import Tree
from focalpo.origin import hardware
from focalpo.speed.measured import peak_bytes
from focalpo.training.engine import open_engine, start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.packing import pack
from focalpo.training.settings import TrainSettings
from recipes.command import explained
from recipes.needs import Estimate
from recipes.plan import RATE
from recipes.quiet import cores_each, quiet_worker
from recipes.table import planned

BRANCHES = ("chosen", "rejected")
SECONDS = 3.0  # of timed steps, which are at least
LEAST_STEPS = 3
MOST_LAYERS = 4  # a deep model spends its time as a shallow one does, and one GPU has no room for 32 layers and Adam

What = tuple[Shape, int, int, int, TrainSettings]


def measure(
    shape: Shape,
    prompt: int,
    answer: int,
    trees: int,
    settings: TrainSettings,
    ready: Callable[[], object] = lambda: None,
) -> dict:
    """Peak bytes and seconds of a step on `trees` pairs of random tokens, beside what the plan's arithmetic says.

    The first step allocates and makes Adam's moments: it is not timed, and `ready` is called after it.
    """
    start_ranks()
    batch = Batch(trees * (prompt + 2 * answer), trees * 2 * answer)
    before = peak_bytes()
    model = LlamaForCausalLM(_llama(shape)).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    engine = open_engine(PackedPolicy(model), settings)
    draw = torch.Generator().manual_seed(1)
    micro = pack([_tree(shape.vocabulary, prompt, answer, draw, place) for place in range(trees)], BRANCHES)

    def step() -> None:
        engine.backward(engine(micro.to(engine.device)).sum() / trees)
        engine.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    step()
    ready()
    steps, started = 0, time.perf_counter()
    while steps < LEAST_STEPS or time.perf_counter() < started + SECONDS:
        step()
        steps += 1
    seconds = (time.perf_counter() - started) / steps
    recompute = settings.activation_checkpointing
    memory = training_memory(shape, batch, settings.dtype, settings.zero_stage, 1, recompute, engine.device.type)
    operations = training_operations(shape, batch, prompt + answer / 2, recompute)
    return {
        "parameters": shape.parameters,
        "estimated_bytes": memory.total,
        "parts": asdict(memory),
        "measured_bytes": peak_bytes() - before,
        "operations": operations,
        "seconds": seconds,
        "operations_per_second": operations / seconds,
    }


def _tree(vocabulary: int, prompt: int, answer: int, draw: torch.Generator, place: int) -> Tree:
    def ids(count: int) -> list[int]:
        return torch.randint(3, vocabulary, (count,), generator=draw).tolist()

    return Tree(str(place), ids(prompt), {branch: ids(answer) for branch in BRANCHES})


def _llama(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )


def main(arguments: list[str]) -> None:
    """Measure the table's first training.

    Raises:
        ValueError: when the table trains nothing.
    """
    plan = planned(arguments)
    found = [(place, row.train) for place, row in plan.rows.items() if row.train]
    if not found:
        raise ValueError("these rows train nothing, so there is no step to measure: rows=dpo")
    (setting, row, _), stage = found[0]
    estimate, workers = Estimate(plan.configs[setting, row], plan.runs), plan.first.launch.workers
    shape = replace(estimate.shape, layers=min(estimate.shape.layers, MOST_LAYERS))
    prompt, answer = estimate.data["prompt"], estimate.data["answer"]
    trees = max(1, estimate.micro_batch(stage).tokens // (prompt + 2 * answer))
    settings = TrainSettings(**stage.settings["train"], **stage.launch["train"])
    measured = _side_by_side(workers, (shape, prompt, answer, trees, settings))
    rate = sum(each["operations_per_second"] for each in measured) / workers
    shown = {"training": stage.name, "processes": workers, **measured[0], "operations_per_second": rate}
    print(json.dumps(shown, indent=1))
    plan.runs.mkdir(parents=True, exist_ok=True)
    write_json(plan.runs / RATE.format(plan.table.scale), {"operations_per_second": rate, "hardware": hardware()})


def _side_by_side(count: int, what: What) -> list[dict]:
    """Measure in so many processes, each with its share of the cores, which start their timed steps together."""
    spawn = get_context("spawn")
    together, pipes = spawn.Barrier(count), []
    for _ in range(count):
        ours, theirs = spawn.Pipe(duplex=False)
        known = (theirs, together, os.getpid(), cores_each(count), what)
        spawn.Process(target=_beside_others, args=known, daemon=True).start()
        theirs.close()
        pipes.append(ours)
    measured: list[dict] = []
    try:
        while pipes:
            ready = wait(pipes)
            measured += [pipe.recv() for pipe in pipes if pipe in ready]
            pipes = [pipe for pipe in pipes if pipe not in ready]
    except EOFError:  # the others wait for it, and end with this process
        raise ValueError("a process died while it measured (out of memory?); lower launch.workers") from None
    return measured


def _beside_others(pipe: Connection, together: Barrier, maker: int, cores: int, what: What) -> None:
    quiet_worker(maker, cores)
    pipe.send(measure(*what, together.wait))


if __name__ == "__main__":
    explained(lambda: main(sys.argv[1:]))
