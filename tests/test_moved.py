"""A training that changed nothing is refused in every layout; one changed bit of one weight on one rank is a change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from focalpo.training import checkpoint, moved
from focalpo.training.engine import open_engine, start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.lora import add_adapters, merge
from focalpo.training.moved import content, must_move, rounding_warnings
from focalpo.training.packing import pack
from focalpo.training.settings import LoraSettings
from tests.tiny import SETTINGS, random_trees, tiny_model

BATCH = pack(random_trees(3, seed=4), ("chosen", "rejected"))
LAYOUTS = [(0, "float32"), (2, "float32"), (1, "bfloat16"), (3, "bfloat16")]
LORA = LoraSettings(rank=2, alpha=4, targets=["q_proj"])
NOTHING = "training changed no weight: .*; raise train.learning_rate"


def opened(zero_stage: int = 0, dtype: str = "float32", model=None):
    start_ranks()
    model = model or tiny_model().to(getattr(torch, dtype))
    return open_engine(PackedPolicy(model), replace(SETTINGS, zero_stage=zero_stage, dtype=dtype))


def step(engine, rate: float, weight: float = 1.0) -> None:
    """One optimizer step at a learning rate, on a loss that is scaled by `weight`; without weight decay."""
    for group in engine.optimizer.param_groups:
        group["lr"], group["weight_decay"] = rate, 0.0
    engine.backward(engine(BATCH).sum() * weight)
    engine.step()


@pytest.mark.parametrize(("zero_stage", "dtype"), LAYOUTS)
def test_steps_at_learning_rate_0_are_refused(zero_stage: int, dtype: str) -> None:
    engine = opened(zero_stage, dtype)
    with pytest.raises(ValueError, match=NOTHING), must_move(engine):
        step(engine, rate=0.0)


@pytest.mark.parametrize(("zero_stage", "dtype"), LAYOUTS)
def test_a_step_of_any_size_that_fp32_shows_is_a_change(zero_stage: int, dtype: str) -> None:
    engine = opened(zero_stage, dtype)
    with must_move(engine):
        step(engine, rate=1e-7)


def test_a_loss_without_a_gradient_is_refused() -> None:
    engine = opened()
    with pytest.raises(ValueError, match=NOTHING), must_move(engine):
        step(engine, rate=1e-2, weight=0.0)


def test_a_learning_rate_that_even_fp32_rounds_away_is_refused() -> None:
    """Norm weights are 1, the others about 0.2 and none is 0: a step of 1e-30 is below half a unit of the last place
    of each."""
    engine = opened()
    with pytest.raises(ValueError, match=NOTHING), must_move(engine):
        step(engine, rate=1e-30)


def test_a_resumed_run_is_compared_with_the_start_and_not_with_its_checkpoint(tmp_path: Path) -> None:
    first = opened()
    step(first, rate=1e-3)
    checkpoint.save(first, tmp_path, 1, "run")
    second = opened()
    with must_move(second):  # it was saved after its last step, so that no step is left
        assert checkpoint.resume(second, tmp_path, "run") == 1


def test_one_bit_of_one_weight_is_a_change() -> None:
    weights = [torch.ones(5, 3), torch.zeros(4)]
    before = content(weights)
    assert content([weight.clone() for weight in weights]) == before
    weights[1][2] = 2.0**-149  # the smallest number above 0
    assert content(weights) != before


def test_pieces_have_the_content_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.arange(10.0), torch.arange(7.0).to(torch.bfloat16)]
    whole = content(weights)
    monkeypatch.setattr(moved, "AT_ONCE", 3)
    assert content(weights) == whole


def test_a_change_on_another_rank_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "sum_over_ranks", lambda mine: mine + 1)
    with must_move(opened()):
        pass


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_step_that_bf16_rounds_away_is_told_apart_from_one_that_it_shows(zero_stage: int) -> None:
    model = tiny_model().to(torch.bfloat16)
    start = content(model.parameters())
    engine = opened(zero_stage, "bfloat16", model)
    with must_move(engine):
        # Zero weights, here none, would show any step; beside 0.2 half a unit of the last place is 5e-4.
        step(engine, rate=1e-9)
    (warning,) = rounding_warnings(start, model)
    assert "the exported weights equal the start's" in warning
    step(engine, rate=1e-2)
    assert rounding_warnings(start, model) == []


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_merged_adapters_are_compared_with_the_model_before_them(zero_stage: int) -> None:
    model = tiny_model()
    start = content(model.parameters())
    adapters = add_adapters(model, LORA, seed=1)
    engine = opened(zero_stage, model=model)
    with must_move(engine):
        step(engine, rate=1e-2)
    merge(adapters)
    assert rounding_warnings(start, model) == []


def test_adapters_that_stay_at_0_are_refused_and_their_merge_is_told() -> None:
    model = tiny_model()
    start = content(model.parameters())
    adapters = add_adapters(model, LORA, seed=1)
    engine = opened(model=model)
    with pytest.raises(ValueError, match=NOTHING), must_move(engine):
        step(engine, rate=0.0)
    merge(adapters)
    assert len(rounding_warnings(start, model)) == 1
