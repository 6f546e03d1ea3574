"""What the speed benchmark sets beside what: every peer has its like of this engine, on random or on real pairs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focalpo.config.bench import BenchSettings, PeerSettings, Shape
from focalpo.config.compose import compose_bench
from focalpo.data.trees import Tree
from focalpo.planning.bench import planned_bench
from focalpo.speed import measurements as plan
from focalpo.speed import ours, peer, tables
from focalpo.speed.flops import useful_flops
from focalpo.speed.switches import Switches
from focalpo.speed.workload import (
    Workload,
    policy_model,
    random_trees,
    read,
    reference_model,
    shape_of,
    trees_of,
    write,
)
from tests.tiny import SETTINGS, VOCABULARY, tiny_model

ONE = ["parts=[peers]", "~lengths.long_prompts", "~lengths.short_chat"]
RAGGED = [(3 + place % 5, 2 + place % 7, 9 - place % 4) for place in range(40)]
BEST = PeerSettings("TRL", 1, False, cached_reference=True, keeps_memory=False, liger=False)


def pairs(*lengths: tuple[int, int, int]) -> list[Tree]:
    """Trees of these lengths, whose tokens are their own numbers."""
    ids = [[np.full(length, place, np.int32) for length in row] for place, row in enumerate(lengths)]
    return [Tree(f"{place}", p, {"chosen": c, "rejected": r}) for place, (p, c, r) in enumerate(ids)]


def needed(config: BenchSettings) -> int:
    return config.train.global_batch * (config.steps + 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A released model: a folder of a tiny Llama."""
    path = tmp_path_factory.mktemp("released") / "model"
    tiny_model().save_pretrained(path)
    return str(path)


def released(folder: str, **changes: object) -> Workload:
    trees = random_trees(RAGGED[:8], VOCABULARY, seed=3)
    train = replace(SETTINGS, global_batch=4, weight_decay=0.0)
    tokens = plan.tokens_of(trees)
    return replace(Workload(shape_of(folder), [], train, 1, 0, model=folder, tokens=tokens), **changes)


def test_real_pairs_are_drawn_from_the_whole_file_and_must_be_enough() -> None:
    config = replace(compose_bench("tiny", []), scale=1.0)
    real = pairs(*[(place + 1, 1, 1) for place in range(30 * needed(config))])
    drawn = plan.workloads(config, real)["real"].lengths
    assert len(set(drawn)) == needed(config) and max(drawn)[0] > 15 * needed(config)
    assert plan.workloads(config, real)["real"].lengths == drawn
    with pytest.raises(ValueError, match=f"{needed(config) - 1} pairs that are short enough, {needed(config)} are"):
        plan.workloads(config, real[: needed(config) - 1])


def test_real_lengths_are_scaled_and_too_long_pairs_left_out() -> None:
    assert plan.lengths_of(pairs((10, 20, 30)), scale=0.5) == [(5, 10, 15)]
    config = replace(compose_bench("tiny", []), scale=1.0)
    longest = max(each.longest for each in config.lengths.values())
    real = pairs(*[(3, longest - 3, 1)] * needed(config), (3, 1, longest - 2))
    assert set(plan.workloads(config, real)["real"].lengths) == {(3, longest - 3, 1)}


def test_a_released_model_trains_on_whole_real_pairs_alone(folder: str, tmp_path: Path) -> None:
    config = compose_bench("tiny", [f"model={folder}", "pairs_file=pairs.jsonl", "scale=0.1"])
    real = random_trees(RAGGED, VOCABULARY, seed=1)
    (name, load), *others = plan.workloads(config, real).items()
    assert name == "real" and not others and load.shape == Shape("llama", VOCABULARY, 32, 64, 2, 4, 2, False)
    known = {tuple(tree.prompt): tree for tree in real}
    for tree in trees_of(load):
        for branch, ids in known[tuple(tree.prompt)].branches.items():
            assert np.array_equal(tree.branches[branch], ids)
    write(load, tmp_path / "workload.json")
    assert read(tmp_path / "workload.json") == load
    policy, frozen = (made(load, "float32").state_dict() for made in (policy_model, reference_model))
    for key, value in tiny_model().state_dict().items():
        assert policy[key].equal(value) and frozen[key].equal(value)


def test_a_row_is_left_out_by_its_key_and_two_rows_cannot_share_a_label() -> None:
    _, config = planned_bench(["bench=bf16", "~peers.trl_focalpo", "peers.trl_best.micro_batch=2"])
    assert list(config.peers) == ["trl", "trl_cached", "trl_best", "trl_cached_bf16", "trl_best_bf16"]
    assert config.peers["trl_best"] == PeerSettings("TRL at its best", 2, False, True, True, False)
    with pytest.raises(ValueError, match="peers: two rows have the label 'TRL defaults'; give each its own"):
        planned_bench(["peers.trl_best.label=TRL defaults"])


def test_a_model_without_pairs_or_configuration_is_one_line_of_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model=x trains on real pairs; name their file \(pairs_file="):
        planned_bench(["bench=tiny", "model=x"])
    with pytest.raises(ValueError, match="config.json is not a file"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ValueError, match="config.json has no vocab_size; choose another model"):
        shape_of(str(tmp_path))


def test_every_dtype_and_loss_of_a_peer_has_this_engines_before_it_and_a_reference_of_its_dtype() -> None:
    config = compose_bench("tiny", [*ONE, "repeats=2"])
    half = replace(BEST, label="half", dtype="bfloat16")
    config.peers = {"best": BEST, "other": replace(BEST, label="focal", gamma=0.5), "third": half}
    found = plan.measurements(config, [])
    names = [m.name for m in found if m.what == "reference"]
    assert names == ["reference/ultrafeedback", "reference/ultrafeedback in bfloat16"]
    timed = {m.name: m for m in found if m.what != "reference"}
    contenders = ["ours", "TRL", "ours, FocalPO 0.5", "focal", "ours, bfloat16", "half"]
    assert list(timed) == [f"ultrafeedback/{name}/{turn}" for turn in range(2) for name in contenders]
    for own, other in zip(contenders[::2], contenders[1::2], strict=True):
        one, two = timed[f"ultrafeedback/{own}/0"], timed[f"ultrafeedback/{other}/0"]
        assert one.workload == two.workload and one.reference == two.reference
    focal, half = timed["ultrafeedback/focal/1"], timed["ultrafeedback/half/1"]
    assert (focal.workload.gamma, focal.reference, half.reference) == (0.5, names[0], names[1])
    assert half.workload.train.dtype == "bfloat16" and half.workload.gamma == 0


def test_factors_are_within_one_run_of_the_same_dtype_and_loss() -> None:
    config = compose_bench("tiny", [*ONE, "repeats=3"])
    config.peers = {"best": BEST, "other": replace(BEST, label="half", dtype="bfloat16")}
    found = plan.measurements(config, [])
    seconds = {"ours": 2.0, "TRL": 6.0, "ours, bfloat16": 1.0, "half": 4.0}
    results = {
        m.name: {"seconds": [seconds[m.name.split("/")[1]]], "peak_bytes": 2e9, "first_loss": 0.7, "matmul_rate": 1e9}
        for m in found
        if m.what in ("ours", "trl")
    }
    rows = tables.comparison(found, results)
    assert [row["engine"] for row in rows] == list(seconds)
    assert [row["speed"] for row in rows] == ["1.00 x", "0.33 x", "2.00 x", "0.50 x"]
    assert [row["ours is"] for row in rows] == ["1.00 x", "3.00 x", "1.00 x", "4.00 x"]
    assert rows[0]["pairs/s"] == config.train.global_batch / 2.0
    timed = trees_of(found[0].workload)[config.train.global_batch :]
    assert rows[0]["of matmul"] == pytest.approx(useful_flops(config.shape.dimensions, timed) / 2.0 / 1e9)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_both_engines_begin_at_the_same_loss(folder: str, gamma: float) -> None:
    """Of a released model at p = 1/2, which TRL reaches only if its log-probs are ours; of random weights anywhere."""
    load = released(folder, gamma=gamma)
    random = replace(load, model=None, tokens=[], lengths=RAGGED[:8])
    for each, expected in ((load, 0.5**gamma * np.log(2)), (random, None)):
        reference = ours.reference(each)
        mine = ours.measure(each, reference, Switches()).first_loss
        theirs = peer.measure(each, reference, BEST).first_loss
        assert theirs == pytest.approx(mine, abs=1e-5)
        assert expected is None or mine == pytest.approx(expected, abs=1e-5)
        assert expected is not None or abs(mine - 0.5**gamma * np.log(2)) > 1e-3
