"""Measure training steps on this machine, and hold the plan's arithmetic against them.

python -m recipes.calibrate                            the pocket table's first training
python -m recipes.calibrate table=paper rows=dpo       another table's, with random weights and tokens of its sizes

The rate it measures (operations a second of a rank) goes to rate.json in the runs' folder, from where `make plan`
takes it. One rank is measured: what ranks spend on waiting for each other is not counted.
"""

import json
import sys
import time
from dataclasses import asdict, replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focalpo.artifact import write_json
from focalpo.cost import Batch, Shape, training_memory, training_operations
from focalpo.data.tokens import Tree
from focalpo.speed.measured import peak_bytes
from focalpo.training.engine import TrainSettings, open_engine, start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.packing import pack
from recipes.command import explained
from recipes.plan import RATE, Estimate
from recipes.quiet import cores_each, quiet
from recipes.table import planned

BRANCHES = ("chosen", "rejected")
STEPS = 4
MOST_LAYERS = 4  # a deep model spends its time as a shallow one does, and one GPU has no room for 32 layers and Adam


def measure(shape: Shape, prompt: int, answer: int, trees: int, settings: TrainSettings) -> dict:
    """Peak bytes and seconds of a step on `trees` pairs of random tokens, beside what the plan's arithmetic says.

    The first step allocates and makes Adam's moments: it is not timed.
    """
    start_ranks()
    batch = Batch(trees * (prompt + 2 * answer), trees * 2 * answer)
    before = peak_bytes()
    model = LlamaForCausalLM(_llama(shape)).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    engine = open_engine(PackedPolicy(model), settings)
    draw = torch.Generator().manual_seed(1)
    seconds = []
    for _ in range(STEPS):
        micro = pack([_tree(shape.vocabulary, prompt, answer, draw, place) for place in range(trees)], BRANCHES)
        started = time.perf_counter()
        engine.backward(engine(micro.to(engine.device)).sum() / trees)
        engine.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    recompute = settings.activation_checkpointing
    memory = training_memory(shape, batch, settings.dtype, settings.zero_stage, 1, recompute, engine.device.type)
    operations = training_operations(shape, batch, prompt + answer / 2, recompute)
    return {
        "parameters": shape.parameters,
        "estimated_bytes": memory.total,
        "parts": asdict(memory),
        "measured_bytes": peak_bytes() - before,
        "operations": operations,
        "seconds": seconds[1:],
        "operations_per_second": operations * (STEPS - 1) / sum(seconds[1:]),
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
    estimate = Estimate(plan.configs[setting, row], plan.runs)
    shape = replace(estimate.shape, layers=min(estimate.shape.layers, MOST_LAYERS))
    prompt, answer = estimate.data["prompt"], estimate.data["answer"]
    trees = max(1, estimate.micro_batch(stage).tokens // (prompt + 2 * answer))
    threads = cores_each(plan.first.launch.workers)
    quiet(threads)
    settings = TrainSettings(**stage.settings["train"], **stage.launch["train"])
    measured = measure(shape, prompt, answer, trees, settings)
    print(json.dumps({"training": stage.name, "threads": threads} | measured, indent=1))
    plan.runs.mkdir(parents=True, exist_ok=True)
    write_json(plan.runs / RATE, {"operations_per_second": measured["operations_per_second"]})


if __name__ == "__main__":
    explained(lambda: main(sys.argv[1:]))
