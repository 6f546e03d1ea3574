"""Ranking groups and accuracies computed by hand, and definitions that are easily confused."""

import pytest

from focalpo.stages.rankings import accuracies, change, groups
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


def test_a_tie_is_ranked_right_as_chen_et_al_define_it() -> None:
    tie = [PairState(step, "test", "t", -5.0, -5.0, 2, 2, None) for step in (0, 1)]
    assert groups(change(tie, "test"))["right_right"] == 1.0


def test_only_the_first_and_the_last_measurement_of_a_split_count() -> None:
    middle = [PairState(3, "test", name, 0.0, -99.0, 2, 4, None) for name in PAIRS]
    elsewhere = [PairState(9, "train", name, 0.0, -99.0, 2, 4, None) for name in PAIRS]
    assert groups(change(states() + middle + elsewhere, "test")) == groups(change(states(), "test"))
