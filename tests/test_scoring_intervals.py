"""Intervals, p-values and errors: by hand, and in simulations with a known truth."""

import math
from math import erfc

import numpy as np
import pytest

from focalpo.scoring import stats
from focalpo.scoring.differences import holm, paired_difference
from focalpo.scoring.stats import Ratio, arena_score, interval, win_rate


def test_equivalence_is_shown_by_many_prompts_and_not_by_few_or_a_true_difference() -> None:
    """Independent wins of 50% and 50%, then 50% and 60%: 4,000 prompts tell a difference of 5 points, 50 do not."""

    def p(prompts: int, second: float, margin: float = 5.0) -> float:
        draw = np.random.default_rng(1)
        a, b = (Ratio((draw.random((1, prompts)) < x).astype(float), np.ones((1, prompts))) for x in (0.5, second))
        return paired_difference(a, b, True).equivalence(margin)

    assert p(4000, 0.5) < 0.01 and p(50, 0.5) > 0.1 and p(4000, 0.6) > 0.99
    # By the normal approximation: two shares of 4,000 have a difference with error sqrt(2 * 0.25 / 4000).
    draw = np.random.default_rng(1)
    a, b = ((draw.random(4000) < 0.5).mean() for _ in range(2))
    error, gap = 100 * (2 * 0.25 / 4000) ** 0.5, 100 * abs(a - b)
    assert p(4000, 0.5, 2.5) == pytest.approx(0.5 * erfc((2.5 - gap) / error / 2**0.5), abs=0.01)


def test_the_interval_of_a_mean_is_the_normal_one_and_seeded() -> None:
    x = np.random.default_rng(2).uniform(1, 2, (1, 400))
    found = interval(win_rate(x))
    half = 1.96 * stats.standard_error(x[0])
    assert found.value == pytest.approx(100 * (x.mean() - 1))
    assert found.low == pytest.approx(found.value - half, abs=0.15)
    assert found.high == pytest.approx(found.value + half, abs=0.15)
    assert interval(win_rate(x)) == found


def test_answers_of_several_seeds_to_a_prompt_are_not_independent_prompts() -> None:
    """Five seeds with the same answers hold the information of one: the interval must not shrink."""
    x = np.random.default_rng(3).uniform(1, 2, (1, 200))
    one, five = interval(win_rate(x)), interval(win_rate(np.repeat(x, 5, axis=0)))
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=1e-9)


def test_seeds_that_differ_widen_the_interval() -> None:
    x = np.full((3, 100), 1.5)
    x[0] -= 0.2
    x[2] += 0.2
    found = interval(win_rate(x))
    assert found.value == pytest.approx(50)
    assert found.low == pytest.approx(30, abs=1e-6) and found.high == pytest.approx(70, abs=1e-6)
    assert stats.seed_deviation(win_rate(x)) == pytest.approx(20)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """200 benchmarks of 100 prompts whose games share a prompt effect: 95% cover, naive game-wise intervals fewer."""
    draw = np.random.default_rng(4)
    covered = naive = 0
    for _ in range(200):
        effect = draw.normal(0, 1, (1, 100, 1))
        games = (effect + draw.normal(0, 0.3, (1, 100, 2)) > 0).astype(float)
        clustered = interval(arena_score(games, np.ones_like(games)))
        covered += clustered.low <= 50 <= clustered.high
        rows = interval(Ratio(games.reshape(1, -1), np.ones((1, 200))))
        naive += rows.low <= 50 <= rows.high
    assert 182 <= covered <= 198
    assert naive < 182


def test_a_paired_difference_ignores_what_both_rows_share() -> None:
    draw = np.random.default_rng(5)
    shared = draw.uniform(1.2, 1.8, (1, 300))
    a, b = win_rate(shared + 0.02), win_rate(shared)
    found = paired_difference(a, b, same_seeds=True)
    assert found.value == pytest.approx(2) and found.low == pytest.approx(2) and found.high == pytest.approx(2)
    assert found.p < 1e-12 and found.equivalence(3) < 1e-12 and found.equivalence(1) > 1 - 1e-12
    same = paired_difference(b, b, same_seeds=True)
    assert (same.value, same.low, same.high, same.p, same.equivalence(1)) == (0.0, 0.0, 0.0, 1.0, 0.0)


def test_holm_by_hand() -> None:
    """.01 * 3 = .03; .02 * 2 = .04; .04 * 1 = .04; never below the one before; in the order given."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


def test_the_detectable_difference_of_a_known_case() -> None:
    """Independent uniform differences: sd of the mean is sqrt(2/12)/sqrt(n) * 100, times 2.80."""
    draw = np.random.default_rng(6)
    a, b = (win_rate(draw.uniform(1, 2, (1, 400))) for _ in range(2))
    found, error = paired_difference(a, b, same_seeds=True), 100 * np.sqrt(2 / 12 / 400)
    assert found.detectable(1) == pytest.approx(2.808 * error, rel=0.1)  # 1.966 of t with 399 df, and 0.842
    assert found.detectable(72) == pytest.approx((3.420 + 0.842) * error, rel=0.1)  # t at .05 / 72


def crossed(draw: np.random.Generator, seeds: int, prompts: int, *deviations: float) -> Ratio:
    """Scores with effects of prompts, of seeds and of both, of these standard deviations."""
    of_prompt, of_seed, rest = deviations
    x = (
        draw.normal(0, of_prompt, prompts)
        + draw.normal(0, of_seed, (seeds, 1))
        + draw.normal(0, rest, (seeds, prompts))
    )
    return Ratio(x, np.ones_like(x))


def test_one_run_of_each_is_the_paired_t_test() -> None:
    """By hand: terms 100, 0, 50, 50 minus 0, 0, 50, 0 have mean 37.5 and standard error sqrt(2291.67 / 4)."""
    a, b = (win_rate(np.array([row])) for row in ([2.0, 1.0, 1.5, 1.5], [1.0, 1.0, 1.5, 1.0]))
    found = paired_difference(a, b, same_seeds=True)
    error = math.sqrt(np.var([100, 0, 0, 50], ddof=1) / 4)
    assert (found.value, found.error, found.df) == pytest.approx((37.5, error, 3))
    assert (found.low, found.high) == pytest.approx((37.5 - 3.18245 * error, 37.5 + 3.18245 * error), abs=1e-3)


def test_the_variances_of_prompts_and_of_seeds_add_up() -> None:
    """Means over 300 tables: 100^2 (2 * .2^2 / 100 + 2 * .1^2 / 3 + 4 * .3^2 / 300), seeds in pairs or not.

    The noise of single answers is in the means over seeds and in those over prompts.
    """
    truth = 1e4 * (2 * 0.04 / 100 + 2 * 0.01 / 3 + 4 * 0.09 / 300)
    for same in (True, False):
        draw = np.random.default_rng(8)
        tables = [[crossed(draw, 3, 100, 0.2, 0.1, 0.3) for _ in range(2)] for _ in range(300)]
        errors = [paired_difference(a, b, same).error for a, b in tables]
        assert np.mean(np.square(errors)) == pytest.approx(truth, rel=0.08)


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (3, 5)])
def test_equal_rows_are_called_different_as_often_as_the_level_says(seeds: tuple[int, int]) -> None:
    """At most 5% of 400 tables (8% with luck), and not never, where seeds differ as prompts let one expect."""
    draw = np.random.default_rng(9)
    pairs = [[crossed(draw, count, 60, 0.3, 0.0, 0.3) for count in seeds] for _ in range(400)]
    share = np.mean([paired_difference(a, b, False).p < 0.05 for a, b in pairs])
    assert 0.001 < share < 0.08


def test_few_seeds_that_differ_do_not_make_small_p_values() -> None:
    """Five seeds with two fifths of the variance: p < .01 at most in 1% of 1,000 tables (1.5% with luck)."""
    draw = np.random.default_rng(10)
    pairs = [[crossed(draw, 5, 100, 0.3 / 2**0.5, 0.1 / 2**0.5, 2**-0.5) for _ in range(2)] for _ in range(1000)]
    assert np.mean([paired_difference(a, b, True).p < 0.01 for a, b in pairs]) < 0.015
