"""The planner and the packing: every item once, balanced, within budget, deterministic."""

import random

import numpy as np
import pytest
import torch

from focalpo.data.trees import Tree, with_mismatched
from focalpo.training.packing import deal, pack, tree_cost
from tests.tiny import random_trees

BRANCHES = ("chosen", "rejected")


def ultrafeedback_costs(pairs: int, seed: int) -> list[int]:
    """Tokens per pair with prompts of 190 and responses of 300 tokens on average, log-normal, capped at 2,048."""
    draw = random.Random(seed)

    def length(mean: float) -> int:
        return min(2048, max(1, round(draw.lognormvariate(0, 0.8) * mean / 1.377)))

    return [length(190) + length(300) + length(300) for _ in range(pairs)]


@pytest.mark.parametrize("ranks, budget", [(1, 100), (1, 10_000), (4, 2_000), (8, 5_000), (64, 4_096)])
def test_every_pair_is_dealt_once_and_ranks_take_equal_steps(ranks: int, budget: int) -> None:
    costs = ultrafeedback_costs(128, seed=1)
    dealt = deal(costs, ranks, budget)
    assert sorted(item for rank in dealt for step in rank for item in step) == list(range(128))
    assert len({len(rank) for rank in dealt}) == 1
    assert all(step for rank in dealt for step in rank)


def test_micro_batches_stay_within_the_budget_unless_one_pair_alone_is_above_it() -> None:
    costs = ultrafeedback_costs(128, seed=2)
    largest = max(costs)
    for budget in (500, 4_096, 20_000):
        loads = [sum(costs[item] for item in step) for rank in deal(costs, 4, budget) for step in rank]
        assert max(loads) <= max(budget, largest)


def test_the_deal_by_hand() -> None:
    """Longest first into the emptiest bin: 9 | 7 | 5 -> bin of 5 takes 4, then the bin of 7 takes 2, 9 stays."""
    assert deal([9, 7, 5, 4, 2], ranks=3, budget=100) == [[[0]], [[1, 4]], [[2, 3]]]
    assert deal([10, 10, 10], ranks=2, budget=10) == [[[0, 2]], [[1]]], "above the budget, for else one rank has none"


@pytest.mark.parametrize("ranks", [8, 64])
def test_load_is_balanced_where_naive_dealing_is_not(ranks: int) -> None:
    costs = ultrafeedback_costs(ranks * 16, seed=3)

    def imbalance(loads: list[int]) -> float:
        return max(loads) / (sum(loads) / len(loads))

    balanced = [sum(costs[item] for step in rank for item in step) for rank in deal(costs, ranks, 1 << 30)]
    naive = [sum(costs[rank::ranks]) for rank in range(ranks)]
    assert imbalance(balanced) <= 1.05 < imbalance(naive)


def test_fewer_pairs_than_ranks_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="3 pairs cannot feed 4 ranks; raise train.global_batch"):
        deal([1, 2, 3], ranks=4, budget=10)


def test_a_packed_row_by_hand() -> None:
    tree = Tree("t", [1, 10, 11], {"chosen": [20, 2], "rejected": [30, 31, 2]})
    batch = pack([tree], BRANCHES)
    assert batch.tokens.tolist() == [[1, 10, 11, 20, 2, 30, 31, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch.predictors.tolist() == [2, 3, 2, 5, 6]
    assert batch.labels.tolist() == [20, 2, 30, 31, 2]
    assert batch.owners.tolist() == [0, 0, 1, 1, 1]
    assert tree_cost(tree, BRANCHES) == 8
    assert tree_cost(tree, ("chosen",)) == 5


def naive_pack(trees: list[Tree], branches: tuple[str, ...]) -> dict[str, list[int]]:
    """One number after another, as the docstring of `packing` says it."""
    row: dict[str, list[int]] = {"tokens": [], "positions": [], "predictors": [], "labels": [], "owners": []}
    prompt_ends, starts = {}, {}

    def lay_response(place: int, branch: str) -> None:
        starts[place, branch] = len(row["tokens"])
        for step, token in enumerate(trees[place].branches[branch]):
            row["tokens"].append(int(token))
            row["positions"].append(len(trees[place].prompt) + step)

    for place, tree in enumerate(trees):
        for position, token in enumerate(tree.prompt):
            row["tokens"].append(int(token))
            row["positions"].append(position)
        prompt_ends[place] = len(row["tokens"]) - 1
        lay_response(place, branches[0])
    for place in range(len(trees)):
        for branch in branches[1:]:
            lay_response(place, branch)
    for place, tree in enumerate(trees):
        for offset, branch in enumerate(branches):
            for step, token in enumerate(tree.branches[branch]):
                row["predictors"].append(starts[place, branch] + step - 1 if step else prompt_ends[place])
                row["labels"].append(int(token))
                row["owners"].append(place * len(branches) + offset)
    return row


@pytest.mark.parametrize("branches", [BRANCHES, ("rejected",), ("rejected", "other", "chosen")])
def test_trees_of_arrays_are_packed_as_one_number_after_another(branches: tuple[str, ...]) -> None:
    def array(ids: list[int]) -> np.ndarray:
        return np.array(ids, np.int32)

    plain = random_trees(9, seed=4, branches=(*BRANCHES, "other"))
    arrays = [Tree(t.id, array(t.prompt), {name: array(ids) for name, ids in t.branches.items()}) for t in plain]
    expected = naive_pack(plain, branches)
    for trees in (plain, arrays):
        batch = pack(trees, branches)
        assert {name: getattr(batch, name).flatten().tolist() for name in expected} == expected
        assert {getattr(batch, name).dtype for name in expected} == {torch.int64}


def test_mismatched_answers_come_from_the_next_prompt_both_sides_in_turn() -> None:
    trees = random_trees(3)
    found = with_mismatched(trees)
    assert [tree.prompt for tree in found] == [tree.prompt for tree in trees]
    assert found[0].branches["mismatched"] == trees[1].branches["chosen"]
    assert found[1].branches["mismatched"] == trees[2].branches["rejected"]
    assert found[2].branches["mismatched"] == trees[0].branches["chosen"]


def test_a_mismatched_answer_is_not_to_the_same_prompt() -> None:
    """Two answers to each prompt, one after the other, as in a file of single answers that is not shuffled."""
    prompts = ([1], [1], [2], [2], [1])  # the last one's next is the first, whose prompt it has
    trees = [Tree(str(n), prompt, {"chosen": [n], "rejected": [n]}) for n, prompt in enumerate(prompts)]
    assert [tree.branches["mismatched"] for tree in with_mismatched(trees)] == [[2], [2], [4], [4], [2]]
    same = [Tree(str(n), [1], {"chosen": [n], "rejected": [n]}) for n in range(3)]
    assert len(with_mismatched(same)) == 3, "there is no other prompt"


def test_a_mismatched_answer_is_cut_where_it_would_be_longer_than_any_pair() -> None:
    long_prompt = Tree("a", [1] * 9, {"chosen": [2], "rejected": [3]})
    long_answer = Tree("b", [4], {"chosen": [5] * 8, "rejected": [6] * 9})
    found = with_mismatched([long_prompt, long_answer])  # the longest pair has 1 + 9 tokens
    assert [tree.branches["mismatched"] for tree in found] == [[5], [3]]
