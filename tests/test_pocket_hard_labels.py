"""False labels on hard pairs: exactly as many as were asked for, where the true rewards are close, and reproducible."""

import statistics

import pytest

from focalpo.config.compose import compose
from focalpo.planning.stages import pairs_stage
from focalpo.pocket import datasets
from focalpo.pocket.world import gold_reward
from focalpo.stages.records import Pair
from recipes.pairs import load_pairs


def gap(pair: Pair) -> float:
    """How much better the chosen answer is than the rejected one, by the true reward of finished answers."""
    chosen, rejected = (gold_reward(pair.prompt[0]["content"], text, True) for text in (pair.chosen, pair.rejected))
    return round(chosen - rejected, 9)


def test_hard_labels_are_coins_on_the_smallest_gaps_and_true_on_all_others():
    """Exactly so many labels are false: half of those below one gap, none above it."""
    clean = datasets.base_pairs(1500, 5, 0.0)
    false = {count: datasets.hard_labels(clean, count, 7) for count in (0, 200, 450)}
    for count, pairs in false.items():
        assert [pair.id for pair in pairs] == [pair.id for pair in clean]
        assert all({a.chosen, a.rejected} == {b.chosen, b.rejected} for a, b in zip(clean, pairs, strict=True))
        assert sum(pair.mislabelled for pair in pairs) == count
        assert all(pair.mislabelled == (gap(pair) < 0) for pair in pairs)
        if count:
            hardest = sorted(abs(gap(pair)) for pair in pairs if gap(pair))
            edge = hardest[2 * count - 1]
            assert max(abs(gap(pair)) for pair in pairs if pair.mislabelled) <= edge
            below = [pair.mislabelled for pair in pairs if 0 < abs(gap(pair)) < edge]
            assert statistics.fmean(below) == pytest.approx(0.5, abs=0.02), "one of each two neighbours"
            first = below[: len(below) // 2]
            assert statistics.fmean(first) == pytest.approx(0.5, abs=0.08), "which one of them, a coin says"
    some, more = ({pair.id for pair in false[count] if pair.mislabelled} for count in (200, 450))
    assert some < more
    assert datasets.hard_labels(clean, 200, 7) == false[200] != datasets.hard_labels(clean, 200, 8)


def test_hard_labels_do_not_depend_on_the_labels_before_and_know_unfinished_answers():
    clean, noisy = (datasets.base_pairs(500, 5, noise) for noise in (0.0, 0.4))
    found = [datasets.hard_labels(pairs, 50, 7) for pairs in (noisy, clean)]
    assert all(a == b for a, b in zip(*found, strict=True) if gap(a)), "equally good answers keep their places"
    prompt = "copy these words : ant bird"
    pair = Pair("p", datasets.as_messages(prompt), "ant bird", "ant bird .")  # 2 and 2.15, or 1.65 where cut
    (true,), (cut,) = (
        datasets.hard_labels([pair], 0, 0, unfinished) for unfinished in (set(), {(prompt, "ant bird .")})
    )
    assert (true.chosen, true.mislabelled, cut.chosen) == ("ant bird .", False, "ant bird")
    with pytest.raises(ValueError, match="coins make 0 of 1 labels false, not 1; lower data.label_noise"):
        datasets.hard_labels([pair], 1, 0)


def test_noise_on_hard_pairs_makes_as_many_labels_false_as_noise_on_any():
    data = {"source": "pocket_base", "prompts": 600, "seed": 1, "test_fraction": 0.2}
    found = [load_pairs(data | {"label_noise": 0.1} | where) for where in ({}, {"noise_on": "hard"})]
    wrong = [[-gap(pair) for pair in (*each.train, *each.test) if pair.mislabelled] for each in found]
    assert len(wrong[0]) == len(wrong[1]) > 80
    assert max(wrong[0]) > 2 and max(wrong[1]) < 1


def test_only_noise_on_hard_pairs_makes_other_stages() -> None:
    """Where the noise may be on any pair, the stage is the one that it was before there was a choice."""
    every, named, hard = (
        pairs_stage(compose(["setting=pocket_base", *more]), None)
        for more in ([], ["data.noise_on=any"], ["data.noise_on=hard"])
    )
    assert "noise_on" not in every.settings["data"] and every.key == named.key
    assert hard.settings["data"]["noise_on"] == "hard"
    assert hard.key != every.key and hard.settings["code"] != every.settings["code"]
    with pytest.raises(ValueError, match="data.noise_on='easy' must be any or hard"):
        compose(["data.noise_on=easy"])
