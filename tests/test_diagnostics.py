"""Diagnostics of training: entropies and CHES against plain forwards; KL, displacement, calibration by hand."""

import math
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from focalpo.reporting.diagnostics import HEADER, NOT_RECORDED, diagnostics_block
from focalpo.stages.diagnostics import calibration, diagnostics
from focalpo.stages.rankings import change
from focalpo.stages.records import Pair, PairState, read_records, write_records
from focalpo.training import logprobs
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES
from focalpo.training.observing import ches, observed
from focalpo.training.watch import Watch
from tests.tiny import random_trees, tiny_model

BRANCHES = ("chosen", "rejected")


def plain(model, prompt: list[int], response: list[int]) -> tuple[float, float, torch.Tensor]:
    """By the textbook, one sequence at a time: log-prob and sum of entropies of the response, and the hidden states
    that predict its tokens [tokens, hidden]."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    logp, entropy = 0.0, 0.0
    for place, token in zip(places, response, strict=True):
        p = found.logits[0, place].double().softmax(-1)
        logp += math.log(p[token])
        entropy -= sum(float(each) * math.log(each) for each in p)
    return logp, entropy, found.hidden_states[-1][0, list(places)].double()


@pytest.mark.parametrize("chunk", [1 << 23, 5 * 97])
def test_one_pass_observes_what_plain_forwards_do(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """In one chunk of the vocabulary and in many; several trees share a micro-batch, others stand alone."""
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", chunk)
    trees, model = random_trees(6, seed=8), tiny_model()
    calls = []

    def engine(micro, asked):
        calls.append(asked)
        return policy(micro, asked)

    policy = PackedPolicy(tiny_model())
    states = observed(engine, trees, 90, 3, "test", {"t1": True})
    assert set(calls) == {"diagnostics"} and 1 < len(calls) < 6
    for tree, state in zip(trees, states, strict=True):
        chosen, rejected = (plain(model, tree.prompt, tree.branches[branch]) for branch in BRANCHES)
        assert (state.id, state.step, state.split, state.mislabelled) == (
            tree.id, 3, "test", True if tree.id == "t1" else None,
        )  # fmt: skip
        assert [state.chosen, state.rejected] == pytest.approx([chosen[0], rejected[0]], abs=1e-4)
        assert [state.chosen_entropy, state.rejected_entropy] == pytest.approx([chosen[1], rejected[1]], rel=1e-4)
        similar = sum(float(one @ other) for one in chosen[2] for other in rejected[2])
        itself = sum(float(one @ other) for one in chosen[2] for other in chosen[2])
        assert state.ches == pytest.approx(similar - itself, rel=1e-4, abs=1e-3)
        lengths = len(chosen[2]), len(rejected[2])
        normalised = similar / (lengths[0] * lengths[1]) - itself / lengths[0] ** 2
        assert state.ches_per_token == pytest.approx(normalised, rel=1e-4, abs=1e-3)


def test_entropies_of_known_distributions() -> None:
    """Equal logits have the entropy log V; a head that is sure of one token has none."""
    tree, model = random_trees(1, seed=2, longest=5)[0], tiny_model()
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    policy = PackedPolicy(model)
    with torch.no_grad():
        head.weight.zero_()
        uniform = observed(policy, [tree], 90, 0, "test", {})[0]
        head.bias[7] = 80.0
        sure = observed(policy, [tree], 90, 0, "test", {})[0]
    assert uniform.chosen_entropy == pytest.approx(uniform.chosen_length * math.log(97), rel=1e-6)
    assert sure.chosen_entropy == pytest.approx(0.0, abs=1e-4)


def test_ches_by_hand() -> None:
    """<(1, 2), (3, -1)> - |(1, 2)|^2 = 1 - 5; a response beside itself scores 0, its opposite -2 |y|^2."""
    chosen = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    rejected = torch.tensor([[3.0, -1.0], [1.0, 2.0], [-1.0, -2.0]])
    assert ches(chosen, rejected).tolist() == [-4.0, 0.0, -10.0]


def state(step: int, name: str, chosen: float, rejected: float, margin: float, **more) -> PairState:
    return PairState(step, "test", name, chosen, rejected, 2, 3, reward_margin=margin, **more)


STATES = [
    state(0, "a", -4.0, -6.0, 0.0, chosen_entropy=2.0, rejected_entropy=6.0, ches=-8.0, ches_per_token=-2.0),
    state(0, "b", -5.0, -6.0, 0.0, chosen_entropy=4.0, rejected_entropy=9.0, ches=-2.0, ches_per_token=-1.0),
    state(9, "a", -3.0, -9.0, 4.0, chosen_entropy=1.0, rejected_entropy=3.0, ches=-6.0, ches_per_token=-1.5),
    state(9, "b", -7.5, -6.5, -2.0, chosen_entropy=1.0, rejected_entropy=3.0, ches=-4.0, ches_per_token=-0.5),
]


def test_kl_entropy_and_displacement_by_hand() -> None:
    """Chosen changes by 1 and -2.5 nats, rejected by -3 and -0.5, over 4 and 6 tokens."""
    found = diagnostics(change(STATES, "test"))
    assert found["kl_answers"] == pytest.approx(-(1 - 2.5 - 3 - 0.5) / 10)
    assert (found["displaced"], found["change_chosen"], found["change_rejected"]) == (0.5, -0.75, -1.75)
    assert (found["entropy_chosen"], found["entropy_rejected"]) == (2 / 4, 6 / 6)
    assert (found["ches"], found["ches_per_token"]) == (-5.0, -1.0)
    p = [1 / (1 + math.exp(-4)), 1 / (1 + math.exp(2))]
    assert found["brier"] == pytest.approx(((1 - p[0]) ** 2 + (1 - p[1]) ** 2) / 2)
    # the first is right with confidence p0, in the last bin; the second wrong with 1 - p1 = .88, in the eighth
    assert found["calibration_error"] == pytest.approx(((1 - p[0]) + (1 - p[1])) / 2)


def test_samples_of_the_reference_estimate_its_kl_from_the_policy() -> None:
    """Over answers drawn from the reference, here all of two tokens in their exact shares, k1 is the KL itself."""
    reference, policy = {"x": 0.75, "y": 0.25}, {"x": 0.5, "y": 0.5}
    drawn = ["x", "x", "x", "y"]
    states = [
        PairState(step, "test", f"{n}", *(math.log(model[each]) for each in (one, other)), 1, 1)
        for step, model in ((0, reference), (1, policy))
        for n, (one, other) in enumerate(zip(drawn, drawn[::-1], strict=True))
    ]
    kl = sum(p * math.log(p / policy[each]) for each, p in reference.items())
    assert diagnostics(change(states, "test"))["kl_answers"] == pytest.approx(kl)


def test_calibration_equals_a_plain_loop_and_knows_the_true_labels() -> None:
    draw = random.Random(3)
    margins = [draw.gauss(0.5, 2) for _ in range(500)]
    wrong = [draw.choice([True, False, None]) for _ in margins]
    bins: dict[int, list[tuple[float, float]]] = {}
    brier = 0.0
    for margin, flipped in zip(margins, wrong, strict=True):
        p = 1 / (1 + math.exp(margin if flipped else -margin))  # of the answer that is truly better
        brier += (1 - p) ** 2 / len(margins)
        confidence = max(p, 1 - p)
        bins.setdefault(min(9, int((confidence - 0.5) / 0.05)), []).append((confidence, float(p > 0.5)))
    error = sum(abs(sum(c for c, _ in each) - sum(r for _, r in each)) for each in bins.values()) / len(margins)
    found = calibration(np.array(margins), np.array(wrong))
    assert (found.brier, found.error) == (pytest.approx(brier), pytest.approx(error))
    assert found.pairs.tolist() == [len(bins[place]) for place in sorted(bins)]
    assert found.right.tolist() == pytest.approx([sum(r for _, r in bins[b]) / len(bins[b]) for b in sorted(bins)])


def test_a_policy_that_is_its_reference_is_calibrated_and_pairs_drawn_from_its_margins_are_too() -> None:
    same = calibration(np.zeros(7), np.array([None] * 7))
    assert (same.error, same.brier, same.confidence.tolist(), same.right.tolist()) == (0.0, 0.25, [0.5], [0.5])
    rng = np.random.default_rng(1)
    margins = rng.normal(0, 3, 200_000)
    drawn = calibration(margins, rng.random(len(margins)) > 1 / (1 + np.exp(-margins)))
    assert drawn.error < 0.005
    twice = calibration(2 * margins, rng.random(len(margins)) > 1 / (1 + np.exp(-margins)))
    assert twice.error > 0.05 and (twice.right < twice.confidence).all(), "twice the margins are overconfident"


def test_extreme_margins_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        found = calibration(np.array([1e6, -1e6]), np.array([None, None]))
    assert (found.brier, found.error) == (0.5, 0.5)


def old_file(path: Path) -> None:
    """As an earlier commit wrote it."""
    write_records(path, STATES)
    pq.write_table(pq.read_table(path).select(range(8)), path)


def test_states_of_an_earlier_commit_are_read_and_shown_as_not_recorded(tmp_path: Path) -> None:
    old_file(tmp_path / "dynamics.parquet")
    states = read_records(tmp_path / "dynamics.parquet", PairState)
    assert [each.chosen for each in states] == [-4.0, -5.0, -3.0, -7.5]
    assert {(each.chosen_entropy, each.ches, each.reward_margin) for each in states} == {(None, None, None)}
    found = change(states, "test")
    assert diagnostics(found).keys() == {"kl_answers", "displaced", "change_chosen", "change_rejected"}
    block = diagnostics_block("Base", {"Old": [found], "New": [change(STATES, "test")]})
    old, new = (dict(zip(HEADER, line[1:], strict=True)) for line in block.body)
    missing = {"entropy_start", "entropy_end", "ches_per_token", "ches_predicts", "brier", "calibration_error"}
    assert {name for name, text in old.items() if text == NOT_RECORDED} == missing
    assert (old["displaced"], old["change_chosen"], old["kl_answers"]) == ("50.0", "-0.75", "0.500")
    assert NOT_RECORDED not in new.values()
    assert (new["entropy_start"], new["entropy_end"], new["ches_per_token"]) == ("2.100", "0.800", "-1.50")


def test_a_loss_without_rewards_has_a_dash_and_not_an_old_commit() -> None:
    states = [PairState(**{n: getattr(s, n) for n in PairState.__slots__ if n != "reward_margin"}) for s in STATES]
    ((_, *cells),) = diagnostics_block("Base", {"KTO": [change(states, "test")]}).body
    assert dict(zip(HEADER, cells, strict=True))["brier"] == "-"


def test_other_records_still_need_all_their_columns(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.parquet", [Pair("a", [], "x", "y")])
    pq.write_table(pq.read_table(tmp_path / "pairs.parquet").select(["id", "prompt", "chosen"]), tmp_path / "one")
    with pytest.raises(ValueError, match="has columns"):
        read_records(tmp_path / "one", Pair)


def test_a_run_that_an_earlier_commit_began_goes_on(tmp_path: Path) -> None:
    """The states of before the resume lack entropies; those of after it have them."""
    trees = random_trees(3, seed=5)
    before = [PairState(0, "test", tree.id, -9.0, -8.0, 2, 3) for tree in trees]
    write_records(tmp_path / "dynamics.parquet", before)
    pq.write_table(pq.read_table(tmp_path / "dynamics.parquet").select(range(8)), tmp_path / "dynamics.parquet")
    watch = Watch([], trees, {}, 0, 4096, tmp_path, OBJECTIVES["dpo"](beta=0.1))
    watch.look(PackedPolicy(tiny_model()), 5, 5)
    states = read_records(tmp_path / "dynamics.parquet", PairState)
    assert [each.step for each in states] == [0] * 3 + [5] * 3
    assert states[0].chosen_entropy is None and states[3].chosen_entropy > 0
    assert states[3].reward_margin == pytest.approx(0.1 * ((states[3].chosen + 9) - (states[3].rejected + 8)))
    assert {"entropy_chosen", "brier", "displaced"} <= watch.summary()["test"].keys()
