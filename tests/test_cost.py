"""The plan's arithmetic matches counts by hand, real models and the measured peak of real steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from focalpo.speed.rate import _llama
from focalpo.training.cost import (
    Batch,
    Shape,
    checkpoint_bytes,
    forward_operations,
    training_memory,
    training_operations,
)
from focalpo.training.lora import add_adapters
from focalpo.training.settings import LoraSettings
from recipes.plan import rate_of

ROOT = Path(__file__).parent.parent
SHAPE = Shape(layers=2, hidden=8, intermediate=16, heads=4, kv_heads=2, vocabulary=100, tied=False)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_real_model(tied: bool) -> None:
    shape = Shape(layers=3, hidden=48, intermediate=80, heads=4, kv_heads=2, vocabulary=97, tied=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_llama(shape))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_llama_3_8b_has_8_billion_parameters() -> None:
    shape = Shape(32, 4096, 14336, 32, 8, 128256, tied=False)
    assert shape.parameters == 8_030_261_248  # the sum over the released weights
    assert isinstance(_llama(shape), LlamaConfig)


def test_states_by_hand() -> None:
    """bf16: 2 bytes of weights and of gradients, 4 of fp32 weights and 8 of moments, the last three shared by ranks."""
    count = SHAPE.parameters
    batch = Batch(10, 5)
    plain = training_memory(SHAPE, batch, "float32", 0, 1, False, "cpu")
    assert (plain.parameters, plain.gradients, plain.optimizer) == (4 * count, 4 * count, 8 * count)
    shared = training_memory(SHAPE, batch, "bfloat16", 2, 4, False, "cpu")
    assert (shared.parameters, shared.gradients, shared.optimizer) == (2 * count, count / 2, 3 * count)
    whole = training_memory(SHAPE, batch, "bfloat16", 3, 4, False, "cpu")
    assert whole.parameters == count / 2 + 2 * 2 * 800 and whole.optimizer == 3 * count
    assert checkpoint_bytes(SHAPE) == 12 * count


def test_activations_by_hand() -> None:
    """Per token and layer, fp32: (9 x 8 + 2 x 4 + 4 x 16) x 4 bytes = 576; recomputed: 8 x 4, plus one whole layer."""
    kept = training_memory(SHAPE, Batch(10, 5), "float32", 0, 1, False, "cpu")
    assert kept.activations == 2 * 10 * 576
    assert training_memory(SHAPE, Batch(10, 5), "float32", 0, 1, True, "cpu").activations == 2 * 10 * 32 + 10 * 576


def test_the_heads_memory_by_hand() -> None:
    """fp32 logits and logsumexp's. 5 rows: twice all. 200,000 rows: once all, which are kept, and once a chunk of 16
    words. 700,000 rows, too many to keep: twice a chunk of 8 words."""
    rows = {n: training_memory(SHAPE, Batch(n, n), "float32", 0, 1, False, "cpu").head for n in (5, 200_000, 700_000)}
    assert rows == {5: 4 * 1000, 200_000: 4 * 200_000 * (100 + 16), 700_000: 4 * 700_000 * 2 * 8}


def test_operations_by_hand() -> None:
    """2 per weight and token, 4 x hidden x context x layers for the two products of attention, 2 for the head."""
    batch = Batch(10, 5)
    expected = 2 * SHAPE.matrices * 10 + 4 * 2 * 8 * 7 * 10 + 2 * 8 * 100 * 5
    assert forward_operations(SHAPE, batch, context=7) == expected
    assert training_operations(SHAPE, batch, 7, False) == 3 * expected
    assert training_operations(SHAPE, batch, 7, True) == 4 * expected


def test_adapter_parameters_are_those_that_peft_adds() -> None:
    """Only they have gradients and moments; their weights come on top of the model's."""
    shape = Shape(layers=2, hidden=48, intermediate=80, heads=4, kv_heads=2, vocabulary=97, tied=True)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = AutoModelForCausalLM.from_config(_llama(shape))
    add_adapters(model, LoraSettings(rank=3, alpha=6, targets=targets), seed=1)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert shape.adapters(3, targets) == trained
    memory = training_memory(shape, Batch(10, 5), "bfloat16", 0, 1, False, "cpu", trained)
    assert memory.parameters == 2 * (shape.parameters + trained)
    assert (memory.gradients, memory.optimizer) == (2 * trained, 12 * trained)


MEASURED = {
    "deep": (Shape(8, 384, 1024, 6, 6, 4000, tied=False), 8, False),
    "wide": (Shape(2, 768, 2048, 12, 4, 2000, tied=False), 16, False),
    "many words": (Shape(2, 256, 704, 4, 4, 32000, tied=True), 8, False),
    "recomputed": (Shape(12, 256, 704, 4, 2, 1000, tied=False), 32, True),
}
MEASURE = """
import json, sys
from dataclasses import replace
from focalpo.speed.rate import measure
from tests.test_cost import MEASURED
from tests.tiny import SETTINGS
shape, trees, recompute = MEASURED[sys.argv[1]]
print(json.dumps(measure(shape, 32, 48, trees, replace(SETTINGS, activation_checkpointing=recompute))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", MEASURED)
def test_the_estimate_of_memory_is_within_15_percent_of_the_measured_peak(shape: str) -> None:
    # The allocator returns freed memory to the system, so that the peak of the process is the peak of its tensors.
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE, shape]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert found["estimated_bytes"] == pytest.approx(found["measured_bytes"], rel=0.15)


@pytest.mark.slow
def test_a_measured_step_gives_the_plan_its_rate(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.calibrate", "rows=sft,dpo", f"runs={tmp_path / 'runs'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert found["training"] == "base-dpo-s1"
    rate, source = rate_of(tmp_path / "runs", "pocket")
    assert rate == found["operations_per_second"] == pytest.approx(found["operations"] / found["seconds"], rel=0.5)
    assert source.startswith("measured") and rate_of(tmp_path / "runs", "paper")[1].startswith("assumed")


def test_rows_that_train_nothing_have_no_step_to_measure() -> None:
    command = [sys.executable, "-m", "recipes.calibrate", "rows=sft"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("error: these rows train nothing")
