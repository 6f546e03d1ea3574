"""The order of pairs, the learning rate by hand, and the runs and kernels that the engine refuses."""

import math
from dataclasses import replace

import pytest
import torch

from focalpo.training.kernels import use_kernels
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.packing import pack
from focalpo.training.steps import global_batch_at, learning_rate_at, steps_of
from tests.tiny import SETTINGS, random_trees, tiny_model


def test_each_epoch_is_a_different_permutation() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return [item for step in range(4) for item in global_batch_at(number * 4 + step, 16, 4, seed)]

    assert sorted(epoch(0, 5)) == sorted(epoch(1, 5)) == list(range(16))
    assert len({tuple(epoch(0, 5)), tuple(epoch(1, 5)), tuple(epoch(0, 6))}) == 3


def test_the_learning_rate_by_hand() -> None:
    """8 steps, a quarter of them warm-up: 0, half, then the cosine from 1 down: cos(0), cos(pi/6) ... of 6 steps."""
    rates = [learning_rate_at(step, 8, replace(SETTINGS, learning_rate=1.0)) for step in range(8)]
    expected = [0, 0.5, 1, (1 + math.cos(math.pi / 6)) / 2, 0.75, 0.5, 0.25, (1 - math.cos(math.pi / 6)) / 2]
    assert rates == pytest.approx(expected)


def test_the_linear_schedule_by_hand() -> None:
    """8 steps from the full rate down in eighths; with a quarter of warm-up, in sixths after it."""
    linear = replace(SETTINGS, learning_rate=1.0, schedule="linear", warmup_ratio=0.0)
    assert [learning_rate_at(step, 8, linear) for step in range(8)] == pytest.approx([1 - n / 8 for n in range(8)])
    warmed = replace(linear, warmup_ratio=0.25)
    expected = [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [learning_rate_at(step, 8, warmed) for step in range(8)] == pytest.approx(expected)


def test_too_few_pairs_for_one_global_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 pairs do not fill one train.global_batch of 4; lower it"):
        steps_of(3, SETTINGS)


def test_a_run_whose_only_step_would_change_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the only step has learning rate 0, where train.warmup_ratio=0.25 starts"):
        steps_of(4, SETTINGS)
    assert steps_of(4, replace(SETTINGS, warmup_ratio=0.0)) == 1
    assert steps_of(8, replace(SETTINGS, warmup_ratio=0.9)) == 2  # rates 0 and a half


def test_an_incomplete_last_batch_is_dropped_and_max_steps_is_a_limit() -> None:
    assert steps_of(15, SETTINGS) == 3
    assert steps_of(15, replace(SETTINGS, epochs=2)) == 6
    assert steps_of(15, replace(SETTINGS, epochs=2, max_steps=5)) == 5


# torch.compile reads the .grad of its inputs, about which torch warns.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_compiled_kernels_change_no_log_prob(monkeypatch: pytest.MonkeyPatch) -> None:
    # ZeRO-3, which other tests start, leaves its own function there, and that cannot be compiled.
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
    trees = random_trees(5, seed=2)
    plain, compiled = PackedPolicy(tiny_model()), PackedPolicy(tiny_model())
    use_kernels(compiled.model, "compiled")
    micro = pack(trees, ("chosen", "rejected"))
    torch.testing.assert_close(compiled(micro), plain(micro), atol=1e-5, rtol=1e-5)
    assert all(layer.mlp._compiled_call_impl is not None for layer in compiled.model.base_model.layers)


def test_compiled_kernels_are_refused_where_weights_are_gathered_inside_of_them() -> None:
    (problem,) = replace(SETTINGS, kernels="compiled", zero_stage=3).problems()
    assert problem.startswith("train.kernels=compiled does not work with train.zero_stage=3")
    assert not replace(SETTINGS, kernels="compiled", zero_stage=2).problems()


def test_liger_kernels_are_refused_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="needs a GPU; use plain or compiled"):
        use_kernels(tiny_model(), "liger")
