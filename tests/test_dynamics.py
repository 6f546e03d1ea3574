"""Ranking groups and accuracies computed by hand, and definitions that are easily confused."""

import math

import numpy as np
import pytest
import torch

from focalpo.stages.rankings import accuracies, change, groups, right
from focalpo.stages.records import PairState

# id: (chosen, rejected) at the start -> at the end; lengths 2 and 4
PAIRS = {
    "stays right": ((-4.0, -6.0), (-3.0, -9.0)),
    "becomes right": ((-8.0, -6.0), (-5.0, -6.0)),
    "becomes wrong": ((-5.0, -6.0), (-7.0, -6.5)),
    "stays wrong": ((-9.0, -6.0), (-8.5, -8.0)),
}


def states(split: str = "test") -> list[PairState]:
    return [
        PairState(step, split, name, *pair[place], 2, 4, None)
        for name, pair in PAIRS.items()
        for place, step in enumerate((0, 7))
    ]


def test_the_four_groups_by_hand() -> None:
    assert groups(change(states(), "test")) == dict.fromkeys(
        ("right_right", "right_wrong", "wrong_right", "wrong_wrong"), 0.25
    )


def test_per_token_ranking_differs_from_ranking_by_sum() -> None:
    """Chosen has 2 tokens, rejected 4: -4/2 < -6/4 is wrong but right in sum; only -3/2 > -9/4 ends right."""
    shares = groups(change(states(), "test"), per_token=True)
    assert shares == {"right_right": 0.0, "right_wrong": 0.0, "wrong_right": 0.25, "wrong_wrong": 0.75}


def test_reward_accuracy_measures_change_and_ranking_accuracy_measures_order() -> None:
    """Margins: (1 - -3) 4, (3 - 0) 3, (-2 - -.5) -1.5, (.5 - -2) 2.5: three of four rewards are right, two rankings."""
    found = accuracies(change(states(), "test"))
    assert found["reward_accuracy"] == 0.75
    assert found["ranking_accuracy_start"] == found["ranking_accuracy_end"] == 0.5
    assert found["margin"] == pytest.approx((4 + 3 - 1.5 + 2.5) / 4)


def tied(name: str, start: tuple[float, float], end: tuple[float, float]) -> list[PairState]:
    return [PairState(step, "test", name, *logps, 2, 2, None) for step, logps in enumerate((start, end))]


def test_training_that_changed_nothing_is_half_right_and_all_ties() -> None:
    """Every margin is 0: neither 0 nor 1 may be reported for a policy that is its own reference."""
    same = tied("a", (-5.0, -7.0), (-5.0, -7.0)) + tied("b", (-9.0, -6.0), (-9.0, -6.0))
    found = accuracies(change(same, "test"))
    assert (found["reward_accuracy"], found["ties"], found["margin"], found["pairs"]) == (0.5, 1.0, 0.0, 2)


def test_a_tie_is_half_right_and_moves_neither_way() -> None:
    """One pair stays tied, one leaves the tie for the right and one for the wrong side, one stays right.

    right-right .5 + .5 + 0 + 1, right-wrong .5 of the third, wrong-right .5 of the second, wrong-wrong .5 + 0 + .5.
    """
    states = tied("stays", (-5.0, -5.0), (-4.0, -4.0)) + tied("up", (-5.0, -5.0), (-4.0, -5.0))
    states += tied("down", (-5.0, -5.0), (-6.0, -5.0)) + tied("right", (-1.0, -2.0), (-1.0, -2.0))
    found = change(states, "test")
    by_hand = {"right_right": 2.0, "right_wrong": 0.5, "wrong_right": 0.5, "wrong_wrong": 1.0}
    assert groups(found) == {name: share / 4 for name, share in by_hand.items()}
    values = accuracies(found)
    assert values["ranking_accuracy_start"] == values["ranking_accuracy_per_token_start"] == (3 * 0.5 + 1) / 4
    assert values["ranking_accuracy_end"] == (0.5 + 1 + 0 + 1) / 4
    assert values["reward_accuracy"] == (0.5 + 1 + 0 + 0.5) / 4 and values["ties"] == 0.5


def test_right_is_the_same_for_numbers_arrays_and_tensors_and_nan_is_never_right() -> None:
    better, worse = [1.0, 2.0, 3.0, math.nan], [2.0, 2.0, 2.0, 2.0]
    expected = [0.0, 0.5, 1.0, 0.0]
    assert [right(*pair) for pair in zip(better, worse, strict=True)] == expected
    assert right(np.array(better), np.array(worse)).tolist() == expected
    assert right(torch.tensor(better, dtype=torch.bfloat16), torch.tensor(worse)).tolist() == expected


def test_single_answers_of_one_label_have_nothing_to_compare() -> None:
    states = [PairState(step, "train", name, -1.0, 0.0, 2, 0, None) for name in "ab" for step in (0, 7)]
    assert accuracies(change(states, "train")) == {"pairs": 0}


def test_only_the_first_and_the_last_measurement_of_a_split_count() -> None:
    middle = [PairState(3, "test", name, 0.0, -99.0, 2, 4, None) for name in PAIRS]
    elsewhere = [PairState(9, "train", name, 0.0, -99.0, 2, 4, None) for name in PAIRS]
    assert groups(change(states() + middle + elsewhere, "test")) == groups(change(states(), "test"))
