"""Measure one training step of a model on this machine, and hold the plan's arithmetic against it.

python -m recipes.calibrate                              the configured model, its own micro-batch
python -m recipes.calibrate layers=4 hidden=256 intermediate=704 heads=4 kv_heads=4 vocabulary=8000 tied=false

The rate it measures (operations a second) goes to runs/calibration.json, from where `make plan` takes it.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focalpo.artifact import write_json
from focalpo.cost import Batch, Shape, training_memory, training_operations
from focalpo.data.tokens import Tree
from focalpo.speed.measured import peak_bytes
from focalpo.training.engine import TrainSettings, open_engine, start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.packing import pack
from recipes.quiet import quiet

PROMPT, RESPONSE = 32, 48
BRANCHES = ("chosen", "rejected")
CALIBRATION = "calibration.json"
STEPS = 4


def measure(shape: Shape, trees: int, settings: TrainSettings) -> dict:
    """Peak bytes and seconds of a step on random tokens, beside what the plan's arithmetic says of them."""
    start_ranks()
    batch = Batch(trees * (PROMPT + 2 * RESPONSE), trees * 2 * RESPONSE)
    before = peak_bytes()
    model = LlamaForCausalLM(_llama(shape)).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    engine = open_engine(PackedPolicy(model), settings)
    draw = torch.Generator().manual_seed(1)
    seconds = []
    for _ in range(STEPS):
        micro = pack([_tree(shape.vocabulary, draw, place) for place in range(trees)], BRANCHES)
        started = time.perf_counter()
        engine.backward(engine(micro.to(engine.device)).sum() / trees)
        engine.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    recompute = settings.activation_checkpointing
    memory = training_memory(shape, batch, settings.dtype, settings.zero_stage, 1, recompute, engine.device.type)
    operations = training_operations(shape, batch, PROMPT + RESPONSE / 2, settings.activation_checkpointing)
    return {
        "parameters": shape.parameters,
        "estimated_bytes": memory.total,
        "parts": asdict(memory),
        "measured_bytes": peak_bytes() - before,
        "operations": operations,
        "first_step_seconds": seconds[1],  # step 0 allocates and makes Adam's moments
        "later_steps_seconds": sum(seconds[2:]) / len(seconds[2:]),
    }


def _tree(vocabulary: int, draw: torch.Generator, place: int) -> Tree:
    def ids(count: int) -> list[int]:
        return torch.randint(3, vocabulary, (count,), generator=draw).tolist()

    return Tree(str(place), ids(PROMPT), {branch: ids(RESPONSE) for branch in BRANCHES})


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


def settings_for(dtype: str, zero_stage: int, activation_checkpointing: bool) -> TrainSettings:
    return TrainSettings(
        learning_rate=1e-5,
        global_batch=1,
        epochs=1,
        max_steps=None,
        warmup_ratio=0.0,
        weight_decay=0.0,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        dtype=dtype,
        zero_stage=zero_stage,
        activation_checkpointing=activation_checkpointing,
        micro_batch_tokens=1 << 20,
        checkpoint_every=0,
    )


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    trees = int(given.pop("trees", "8"))
    recompute = given.pop("activation_checkpointing", "false") == "true"
    runs = Path(given.pop("runs", "runs"))
    tied = given.pop("tied", "false") == "true"
    shape = Shape(**{name: int(value) for name, value in given.items()}, tied=tied)
    quiet(1)
    found = measure(shape, trees, settings_for("float32", 0, recompute))
    print(json.dumps(found, indent=1))
    write_json(runs / CALIBRATION, {"operations_per_second": found["operations"] / found["first_step_seconds"]})


if __name__ == "__main__":
    main(sys.argv[1:])
