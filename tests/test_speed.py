"""The speed benchmark: its counts and comparisons are right, and no speed-up changes a number."""

import gc
import json
import math
import subprocess
import sys
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import _registry, current_flash_attention_impl

from focalpo.config.bench import Lengths, Shape
from focalpo.config.compose import compose_bench
from focalpo.data.trees import Tree
from focalpo.speed import measurements as plan
from focalpo.speed import ours, tables
from focalpo.speed import workload as workload_module
from focalpo.speed.flops import useful_flops
from focalpo.speed.planner import dealt
from focalpo.speed.switches import (
    ATTENTION,
    Switches,
    attention_of,
    batcher_of,
    deal_in_order,
    pack_padded,
    policy_of,
)
from focalpo.speed.workload import Workload, draw, new_model, read, shuffled, trees_of, write
from focalpo.training.engine import start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.packing import deal, imbalance, pack
from focalpo.training.settings import TrainSettings
from focalpo.training.steps import global_batch_at
from tests.tiny import random_trees, tiny_model

ROOT = Path(__file__).parent.parent
BRANCHES = ("chosen", "rejected")
ULTRAFEEDBACK = Lengths(prompt=190, response=300, prompt_sigma=1.0, response_sigma=0.7, longest=2048)
SHAPE = Shape("llama", 97, 32, 64, 2, 4, 2, True)


def workload(pairs: int = 6, steps: int = 1) -> Workload:
    train = TrainSettings(1e-3, pairs, 1, None, 0.1, 0.0, 0.999, 1.0, "float32", 0, False, 100, 0)
    return Workload(SHAPE, draw(ULTRAFEEDBACK, pairs * (steps + 1), 0.05, seed=3), train, steps, seed=0)


def test_lengths_have_the_configured_means_and_stay_within_the_longest() -> None:
    rows = draw(replace(ULTRAFEEDBACK, longest=10**6), 20_000, 1.0, seed=0)
    for place, mean, sigma in ((0, 190, 1.0), (1, 300, 0.7), (2, 300, 0.7)):
        found = sum(row[place] for row in rows) / len(rows)
        # standard error of a log-normal's mean: mean * sqrt(exp(sigma^2) - 1) / sqrt(n)
        assert abs(found - mean) < 4 * mean * math.sqrt(math.expm1(sigma**2)) / math.sqrt(len(rows)) + 0.5
    capped = draw(ULTRAFEEDBACK, 5_000, 1.0, seed=0)
    assert max(prompt + max(chosen, rejected) for prompt, chosen, rejected in capped) == 2048
    assert draw(ULTRAFEEDBACK, 9, 0.5, seed=4) == draw(ULTRAFEEDBACK, 9, 0.5, seed=4)


def test_shuffled_items_come_back_in_order() -> None:
    items = list("abcdefghijkl")
    placed = shuffled(items, 4, seed=7)
    order = [placed[place] for step in range(3) for place in global_batch_at(step, 12, 4, seed=7)]
    assert order == items and placed != items


def test_a_workload_survives_its_file(tmp_path: Path) -> None:
    write(workload(), tmp_path / "workload.json")
    assert read(tmp_path / "workload.json") == workload()
    prompts = [[tree.prompt.tolist() for tree in trees_of(workload())] for _ in range(2)]
    assert prompts[0] == prompts[1]


def test_useful_flops_by_hand() -> None:
    shape = Shape("llama", 10, 4, 6, 2, 2, 1, True)
    tree = Tree("t", [1] * 3, {"chosen": [1] * 2, "rejected": [1]})
    # attention q, o: 2 * 4 * 4, k, v: 2 * 4 * 2; gated MLP: 3 * 4 * 6; 120 multiply-adds per token and layer; 6 tokens
    layers = 2 * 6 * (32 + 16 + 72)
    # keys seen: prompt 1 + 2 + 3, chosen 4 + 5, rejected 4 = 19; scores and values: 2 * hidden 4 each, two layers
    attention = 2 * 19 * 2 * 4
    head = 4 * 10 * 3
    assert useful_flops(shape.dimensions, [tree]) == 6 * (layers + attention + head)


def test_the_parameter_count_is_that_of_the_model() -> None:
    for tied in (True, False):
        shape = replace(SHAPE, tie_word_embeddings=tied)
        model = new_model(shape, seed=0, dtype="float32")
        assert shape.dimensions.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_padding_changes_no_log_prob() -> None:
    trees = random_trees(7, seed=5)
    policy = PackedPolicy(tiny_model())
    padded = pack_padded(trees, BRANCHES)
    assert padded.tokens.shape[1] == 7 * max(len(t.prompt) + sum(map(len, t.branches.values())) for t in trees)
    torch.testing.assert_close(policy(padded), policy(pack(trees, BRANCHES)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", plan.VARIANTS)
def test_no_speed_up_changes_a_loss_or_a_gradient(name: str) -> None:
    load = workload()
    cached = ours.reference(load)
    losses, gradients = ours.gradients(load, cached, Switches())
    others, theirs = ours.gradients(load, cached, plan.VARIANTS[name])
    torch.testing.assert_close(others, losses, atol=1e-5, rtol=0)
    largest = max(gradient.abs().max() for gradient in gradients)
    assert max((a - b).abs().max() for a, b in zip(gradients, theirs, strict=True)) < 1e-5 * largest


def test_each_switch_changes_what_it_names() -> None:
    trees = random_trees(8, seed=1)

    def tokens(switches: Switches) -> int:
        batches = batcher_of(switches, 60).micro_batches(trees, BRANCHES, ranks=1, rank=0)
        return sum(micro.tokens.numel() for _, micro, _ in batches)

    prompts = sum(len(tree.prompt) for tree in trees)
    assert tokens(Switches(share_prompts=False)) == tokens(Switches()) + prompts
    assert tokens(Switches(packing=False)) > tokens(Switches())
    shares = [share for share, _, _ in batcher_of(Switches(balanced=False), 10**6).micro_batches(trees, BRANCHES, 1, 0)]
    assert shares == [list(range(8))]


def test_without_the_cached_reference_every_forward_runs_two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    start_ranks()
    forwards = []
    counted = PackedPolicy.forward

    def forward(self: PackedPolicy, *batch):
        forwards.append(self)
        return counted(self, *batch)

    monkeypatch.setattr(PackedPolicy, "forward", forward)
    load = workload()
    cached = {branch: [0.0] * load.pairs for branch in BRANCHES}
    with_cache = ours.measure(load, cached, Switches())
    once = len(forwards)
    without = ours.measure(load, cached, Switches(cached_reference=False))
    assert len(forwards) - once == 2 * once
    assert len(with_cache.seconds) == load.steps and with_cache.first_loss == pytest.approx(without.first_loss)


def test_dealing_in_order_and_imbalance_by_hand() -> None:
    costs = [4, 1, 3, 2]
    hands = deal_in_order(costs, ranks=2, budget=4)
    assert hands == [[[0], [2]], [[1], [3]]]
    assert imbalance(costs, hands) == (4 + 3) / 5
    assert imbalance(costs, deal(costs, 2, 10)) == 1.0


@pytest.mark.parametrize("ranks, pairs", [(8, 128), (64, 512)])
def test_ultrafeedback_lengths_are_dealt_within_five_percent_of_even(ranks: int, pairs: int) -> None:
    batches = [[sum(row) for row in draw(ULTRAFEEDBACK, pairs, 1.0, seed)] for seed in range(20)]
    found = dealt(batches, ranks, 16384)
    assert found.planner <= 1.05 < found.in_order


def test_two_pairs_per_rank_are_dealt_as_evenly_as_whole_pairs_allow() -> None:
    """With 128 pairs on 64 ranks the longest pair alone is above a rank's share: no deal of whole pairs is even."""
    batches = [[sum(row) for row in draw(ULTRAFEEDBACK, 128, 1.0, seed)] for seed in range(20)]
    found = dealt(batches, 64, 16384)
    assert 1.05 < found.bound <= found.planner <= 1.01 * found.bound


def test_objectives_share_one_reference_stage() -> None:
    config = compose_bench("tiny", ["parts=[growth]"])
    found = [m for m in plan.measurements(config, []) if m.name.startswith("growth/pairs per batch/2")]
    results = {
        "growth/pairs per batch/2": {"seconds": [3.0], "peak_bytes": 1e9, "first_loss": 0.7, "matmul_rate": 1e9},
        "growth/pairs per batch/2/reference": {"seconds": 2.0},
    }
    rows = [row for row in tables.growth(found, results, [1, 4]) if row["axis"] == "objectives on one reference"]
    # The reference stage saw the untimed step's pairs too: half of its 2 s are for the 2 pairs of the timed step.
    assert [row["pairs/s"] for row in rows] == [2 / (1.0 + 3.0), 8 / (1.0 + 12.0)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["parts=[speed]"], "unknown part 'speed'"),
        (
            [f"~lengths.{name}" for name in ("ultrafeedback", "long_prompts", "short_chat")],
            "lengths={}: no distribution of pair lengths",
        ),
    ],
)
def test_an_impossible_benchmark_is_one_line_of_error(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "recipes.bench", "bench=tiny", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and message in run.stderr


@pytest.mark.parametrize("dtype, zero_stage", [("float32", 0), ("bfloat16", 1)])
def test_a_measurement_leaves_no_model_behind(monkeypatch: pytest.MonkeyPatch, dtype: str, zero_stage: int) -> None:
    """A session measures one after another in a process, on a GPU that holds one model's states."""
    made = []

    def recorded(*what) -> torch.nn.Module:
        model = new_model(*what)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(workload_module, "new_model", recorded)
    start_ranks()
    load = workload()
    load.train = replace(load.train, dtype=dtype, zero_stage=zero_stage)
    cached = {branch: [0.0] * load.pairs for branch in BRANCHES}
    ours.measure(load, cached, Switches(cached_reference=False))
    gc.collect()
    assert len(made) == 2 and not [model for model in made if model() is not None]


def test_a_model_has_the_same_weights_in_any_dtype_up_to_rounding() -> None:
    """TRL's are fp32, ours bf16: their first losses are compared."""
    whole, half = (new_model(SHAPE, seed=3, dtype=dtype) for dtype in ("float32", "bfloat16"))
    for (name, one), two in zip(whole.named_parameters(), half.parameters(), strict=True):
        assert two.dtype == torch.bfloat16 and torch.equal(one.to(torch.bfloat16), two), name
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32} and half.dtype == torch.bfloat16


def test_flash_attention_3_is_on_where_it_is_asked_for_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own switch, with a stand-in for the package; without one, its name is in the error."""
    with pytest.raises(ModuleNotFoundError, match="flash_attn_interface"), attention_of(Switches(attention="flash_3")):
        pass
    handle = SimpleNamespace(remove=lambda: None)
    monkeypatch.setitem(_registry._FLASH_ATTENTION_IMPLS, "FA3", lambda: handle)
    with attention_of(Switches(attention="flash_3")):
        assert current_flash_attention_impl() == "FA3"
    with attention_of(Switches(attention="flex")):
        assert current_flash_attention_impl() is None


@pytest.mark.parametrize("name", ATTENTION)
def test_a_policy_gets_the_kernel_of_attention_that_is_named(name: str) -> None:
    for frozen in (None, tiny_model()):
        policy = policy_of(tiny_model(), frozen, Switches(attention=name))
        assert policy.model.config._attn_implementation == ATTENTION[name]


def test_results_are_plain_numbers(tmp_path: Path) -> None:
    start_ranks()
    load = workload()
    found = ours.measure(load, {branch: [0.0] * load.pairs for branch in BRANCHES}, Switches())
    assert json.loads(json.dumps(asdict(found)))["peak_bytes"] > 0
