"""What the pocket judge prefers, by hand."""

import pytest

from focalpo.pocket.judge import log_odds, preference, verdict


def test_preference_by_hand():
    # Gold 2 against 0 at equal length: sigmoid(2 / 0.3) = 1 / (1 + exp(-6.6667)).
    assert log_odds("add 2 and 3", "5", "6") == pytest.approx(20 / 3)
    assert preference("add 2 and 3", "5", "6") == pytest.approx(0.998729, abs=1e-6)
    # An opener is worth 0.25 / 0.3 and its two words 0.04: sigmoid(0.873333).
    assert preference("add 2 and 3", "sure : 5", "5") == pytest.approx(0.705439, abs=1e-6)
    # Cut off: 0.5 / 0.3 less.
    assert log_odds("add 2 and 3", "5", "5", finished_a=False) == pytest.approx(-5 / 3)
    assert preference("add 2 and 3", "5", "5") == 0.5


def test_five_filler_words_game_the_judge_and_more_do_not():
    bare = "add 2 and 3", "5"
    odds = [log_odds(*bare[:1], f"5 {'so ' * padding}", bare[1]) for padding in (1, 5, 6, 20)]
    assert odds == pytest.approx([0.02, 0.10, 0.12 - 0.05 / 0.3, 0.40 - 0.75 / 0.3])


@pytest.mark.parametrize(
    ("odds", "label"),
    [(5.0, "A>>B"), (2.0, "A>>B"), (1.9, "A>B"), (0.4, "A>B"), (0.39, "A=B"), (0.0, "A=B"), (-0.39, "A=B"),
     (-0.4, "B>A"), (-1.9, "B>A"), (-2.0, "B>>A")],
)  # fmt: skip
def test_verdict_thresholds(odds, label):
    assert verdict(odds) == label
