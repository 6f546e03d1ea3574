"""Single answers with labels: from a file to KTO's loss, which equals a computation of its own, and no other loss."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from focalpo.data.tokens import answer_trees, pair_trees
from focalpo.data.trees import Tree, read_trees, with_mismatched, write_trees
from focalpo.data.truncation import Limits
from focalpo.stages.diagnostics import diagnostics
from focalpo.stages.rankings import accuracies, change
from focalpo.stages.records import Pair, PairState, read_records
from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.inputs import logps_of, scored_by
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES
from focalpo.training.packing import pack
from focalpo.training.scoring import score
from focalpo.training.unpaired import weight_advice
from focalpo.training.watch import Watch
from tests.tiny import SETTINGS, byte_tokenizer, random_trees, tiny_model

BRANCHES = ("chosen", "rejected")
NONE = np.empty(0, np.int32)


def unpaired(trees: list[Tree]) -> list[Tree]:
    """Each pair as two trees, of which each has the tokens of one answer."""
    return [
        Tree(f"{tree.id}-{side}", tree.prompt, {side: tree.branches[side], other: NONE})
        for tree in trees
        for side, other in (BRANCHES, BRANCHES[::-1])
    ]


def test_a_tree_has_the_tokens_of_its_answer_alone_also_in_its_file(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<e>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"  # fmt: skip  # noqa: E501
    tokenizer = byte_tokenizer(template, eos_token="<e>")
    pair = Pair("a", [{"role": "user", "content": "how"}], "well", "badly")
    limits, stops = Limits(60, 120, "keep_prompt"), [tokenizer.eos_token_id]
    (both,) = pair_trees(tokenizer, [pair], limits, stops).trees
    single = [Pair("w", pair.prompt, "well", ""), Pair("l", pair.prompt, "", "badly")]
    found = answer_trees(tokenizer, single, limits, stops).trees
    write_trees(tmp_path / "trees.parquet", found)
    for trees in (found, read_trees(tmp_path / "trees.parquet")):
        for tree, side, other in zip(trees, BRANCHES, BRANCHES[::-1], strict=True):
            assert tree.prompt.tolist() == both.prompt.tolist()
            assert tree.branches[side].tolist() == both.branches[side].tolist() and not len(tree.branches[other])


@pytest.mark.parametrize("share_prompts", [True, False])
def test_an_answer_alone_has_the_log_prob_that_it_has_in_its_pair(share_prompts: bool) -> None:
    trees, policy = random_trees(6, seed=4), PackedPolicy(tiny_model())
    paired = policy(pack(trees, BRANCHES))
    found = policy(pack(unpaired(trees), BRANCHES, share_prompts)).view(6, 2, 2)
    torch.testing.assert_close(found[:, 0, 0], paired[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 1, 1], paired[:, 1], atol=1e-5, rtol=1e-5)
    assert not found[:, 0, 1].any() and not found[:, 1, 0].any(), "no token, no log-prob"


def test_the_mismatched_answer_is_the_only_one_of_the_next_tree() -> None:
    trees = [Tree("a", [1], {"chosen": [5, 6], "rejected": NONE}), Tree("b", [2], {"chosen": NONE, "rejected": [7]})]
    assert [tree.branches["mismatched"] for tree in with_mismatched(trees)] == [[7], [5, 6]]
    pairs = [Tree("a", [1], {"chosen": [5], "rejected": [6]}), Tree("b", [2], {"chosen": [7], "rejected": [8]})]
    assert [tree.branches["mismatched"] for tree in with_mismatched(pairs)] == [[7], [6]], "in turn, as before"


def logp(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The textbook: one sequence, all logits."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    first = len(prompt) - 1
    return sum(logits[first + place, token] for place, token in enumerate(answer))


def naive_kto(policy, reference, rows: list[tuple[list[int], list[int], bool]], mismatched, beta, weights):
    """KTO's loss of rows (prompt, answer, label), by its paper's Eq. 7 in plain loops; and mean rewards by label."""
    with torch.no_grad():
        kl = [logp(policy, *each) - logp(reference, *each) for each in mismatched]
    z = max(0.0, beta * float(sum(kl)) / len(kl))
    total, rewards = 0.0, {True: [], False: []}
    for prompt, answer, label in rows:
        with torch.no_grad():
            before = logp(reference, prompt, answer)
        reward = beta * (logp(policy, prompt, answer) - before)
        value = torch.sigmoid(reward - z) if label else torch.sigmoid(z - reward)
        total = total + weights[label] * (1 - value) / len(rows)
        rewards[label].append(float(reward.detach()))
    return total, {label: sum(each) / len(each) for label, each in rewards.items()}


class Steps:
    """Keeps what every step logs."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def resume_at(self, step: int) -> None: ...

    def progress(self, done: int, total: int, **values: float) -> None: ...

    def log(self, step: int, **values: float) -> None:
        self.logged.append(values)


@pytest.mark.parametrize("budget", [60, 1 << 20])
def test_ktos_loss_and_step_on_single_answers_are_those_of_plain_loops(tmp_path: Path, budget: int) -> None:
    """Three quarters of the answers are desirable; the reference is another model, so that z and the rewards differ
    from 0. One SGD-like check of the gradient: its norm, which the engine logs."""
    start_ranks()
    pairs = random_trees(6, seed=21, longest=9)
    trees = [tree for place, tree in enumerate(unpaired(pairs)) if place % 4 != 1]
    mismatched, beta, weights = with_mismatched(trees), 0.3, {True: 1.0, False: 2.5}
    frozen, naive = tiny_model(seed=5), tiny_model()
    reference = PackedPolicy(tiny_model(seed=5))
    cached = score(reference, trees, BRANCHES, 999) | score(reference, mismatched, ("mismatched",), 999)
    rows = [(list(t.prompt), list(t.branches[s]), s == "chosen") for t in trees for s in BRANCHES if len(t.branches[s])]
    assert len(rows) == len(trees) == 9 and sum(label for _, _, label in rows) == 6
    strangers = [(list(tree.prompt), list(tree.branches["mismatched"])) for tree in mismatched]
    loss, rewards = naive_kto(naive, frozen, rows, strangers, beta, weights)
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in naive.parameters()))

    steps = Steps()
    settings = replace(SETTINGS, global_batch=9, max_steps=1, warmup_ratio=0.0, micro_batch_tokens=budget)
    objective = OBJECTIVES["kto"](beta=beta, chosen_weight=weights[True], rejected_weight=weights[False])
    engine = open_engine(PackedPolicy(tiny_model()), settings)
    train(engine, objective, Examples(trees, cached, mismatched), settings, 1, tmp_path, steps)
    (step,) = steps.logged
    assert step["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert step["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert step["reward_chosen"] == pytest.approx(rewards[True], rel=1e-4)
    assert step["reward_rejected"] == pytest.approx(rewards[False], rel=1e-4)
    assert {"reward_accuracy", "reward_margin", "ranking_accuracy"}.isdisjoint(step), "answers of different prompts"
    assert all(map(math.isfinite, step.values()))


def test_pairs_taken_apart_have_half_the_loss_of_the_pairs(tmp_path: Path) -> None:
    """With the same z, the mean over 2n answers of one term each is half the mean over n pairs of two terms."""
    pairs = random_trees(4, seed=3)
    policy, reference = PackedPolicy(tiny_model()), PackedPolicy(tiny_model(seed=5))
    kto, losses = OBJECTIVES["kto"](beta=0.2), []
    for trees in (pairs, unpaired(pairs)):
        examples = Examples(trees, score(reference, trees, BRANCHES, 999), [])
        items = list(range(len(trees)))
        with torch.no_grad():
            scored = scored_by(policy, kto, pack(trees, BRANCHES))
        losses.append(kto(logps_of(kto, scored, items, examples, {"kl": torch.tensor(0.1)})).loss.mean())
    torch.testing.assert_close(losses[1], losses[0] / 2, atol=1e-6, rtol=1e-6)


def test_held_out_answers_are_compared_across_labels_and_averaged_over_those_that_are_there(tmp_path: Path) -> None:
    """Desirable gain 3 and 1, undesirable 2 and 1: of four couples 3>2, 3>1 are right, 1<2 wrong, 1=1 a tie."""

    def state(step: int, name: str, chosen: float | None, rejected: float | None) -> PairState:
        lengths = (2, 0) if rejected is None else (0, 4)
        return PairState(step, "test", name, chosen or 0.0, rejected or 0.0, *lengths, None, 1.0, 2.0)

    gains = {"a": (3.0, None), "b": (1.0, None), "c": (None, 2.0), "d": (None, 1.0)}
    start = [state(0, name, *(None if g is None else -9.0 for g in each)) for name, each in gains.items()]
    end = [state(5, name, *(None if g is None else -9.0 + g for g in each)) for name, each in gains.items()]
    found = change([*start, *end], "test")
    assert accuracies(found) == {"pairs": 4, "reward_accuracy": 2.5 / 4, "ties": 0.25, "margin": 0.5}
    values = diagnostics(found)
    assert (values["change_chosen"], values["change_rejected"], values["displaced"]) == (2.0, 1.5, 0.0)
    assert values["kl_answers"] == pytest.approx(-(3 + 1 + 2 + 1) / 12)
    assert "ches" not in values and "brier" not in values


def test_a_watch_evaluates_single_answers(tmp_path: Path) -> None:
    trees = unpaired(random_trees(3, seed=5))
    watch = Watch([], trees, {}, 0, 4096, tmp_path, OBJECTIVES["kto"](), Evaluations())
    watch.look(PackedPolicy(tiny_model()), 0, 5)
    watch.look(PackedPolicy(tiny_model(seed=3)), 5, 5)
    states = read_records(tmp_path / "dynamics.parquet", PairState)
    assert {(each.ches, each.reward_margin) for each in states} == {(None, None)}
    chosen = [each.chosen for each in states if each.step == 5 and each.chosen_length]
    assert watch.tracker.seen[1]["logps_chosen"] == pytest.approx(sum(chosen) / 3)
    assert watch.summary()["test"]["pairs"] == 9


class Evaluations:
    """Keeps what every evaluation says."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def evaluated(self, step: int, **values: float) -> None:
        assert all(map(math.isfinite, values.values()))
        self.seen.append(values)


def test_weights_are_left_at_one_and_an_imbalance_is_said_with_the_weights_that_end_it() -> None:
    """KTO's Eq. 8: 1 <= chosen_weight n_D / (rejected_weight n_U) <= 4/3."""

    def advice(desirable: int, undesirable: int, *weights: float) -> list[str]:
        trees = [Tree("", [1], {"chosen": [1], "rejected": NONE})] * desirable
        return weight_advice([*trees, *([Tree("", [1], {"chosen": NONE, "rejected": [1]})] * undesirable)], *weights)

    assert advice(10, 10, 1.0, 1.0) == advice(40, 30, 1.0, 1.0) == advice(90, 10, 1.0, 9.0) == []
    (many,) = advice(90, 10, 1.0, 1.0)
    assert many.startswith("90 desirable and 10 undesirable answers weigh 9 : 1")
    assert "objective.rejected_weight=6.75 to 9 would" in many
    assert advice(90, 10, 1.0, 6.75) == advice(90, 10, 1.0, 9.0) == []
    (few,) = advice(10, 90, 1.0, 1.0)
    assert (
        "objective.chosen_weight=9 to 12 would" in few and advice(10, 90, 9.0, 1.0) == advice(10, 90, 12.0, 1.0) == []
    )
