"""The plan's arithmetic matches counts by hand and real models."""

import json
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
    assert checkpoint_bytes(shape) == 12 * 8_030_261_248


def test_operations_by_hand() -> None:
    """2 per weight and token, 4 x hidden x context x layers for the two products of attention, 2 for the head."""
    batch = Batch(10, 5)
    expected = 2 * SHAPE.matrices * 10 + 4 * 2 * 8 * 7 * 10 + 2 * 8 * 100 * 5
    assert forward_operations(SHAPE, batch, context=7) == expected
    assert training_operations(SHAPE, batch, 7, False) == 3 * expected
    assert training_operations(SHAPE, batch, 7, True) == 4 * expected


def test_adapter_parameters_are_those_that_peft_adds() -> None:
    shape = Shape(layers=2, hidden=48, intermediate=80, heads=4, kv_heads=2, vocabulary=97, tied=True)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = AutoModelForCausalLM.from_config(_llama(shape))
    add_adapters(model, LoraSettings(rank=3, alpha=6, targets=targets), seed=1)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert shape.adapters(3, targets) == trained


@pytest.mark.slow
def test_a_measured_step_gives_the_plan_its_rate(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.calibrate", "rows=sft,dpo", f"runs={tmp_path / 'runs'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert found["training"] == "base-dpo-s1"
    rate, source = rate_of(tmp_path / "runs", "pocket", 0)
    assert rate == found["operations_per_second"] == pytest.approx(found["operations"] / found["seconds"], rel=0.5)
    assert source.startswith("measured") and rate_of(tmp_path / "runs", "paper", 1)[1].startswith("assumed")
    assert rate_of(tmp_path / "runs", "laptop", 0)[0] < 1e-2 * rate_of(tmp_path / "runs", "paper", 1)[0]


def test_rows_that_train_nothing_have_no_step_to_measure() -> None:
    command = [sys.executable, "-m", "recipes.calibrate", "rows=sft"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: these rows train nothing")
