"""Scores of duels and Bradley-Terry ratings: by hand, against naive versions, and in a simulation of known power."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from focalpo.pocket import judge as pocket
from focalpo.pocket.rivals import KINDS, Comparison, compared, labels, preferences
from focalpo.scoring.bradley_terry import fitted, standings
from focalpo.scoring.differences import paired_difference
from focalpo.scoring.duels import Games, duel
from focalpo.scoring.power import detected, smallest_detected
from focalpo.scoring.stats import Ratio


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def games(results, weights=None, length=None, other=None, same=None) -> Games:
    results = np.array(results, dtype=float)
    zeros = np.zeros(results.shape[:2])
    return Games(
        results,
        np.ones_like(results) if weights is None else np.array(weights, dtype=float),
        zeros if same is None else np.array(same, dtype=float),
        zeros if length is None else np.array(length, dtype=float),
        zeros if other is None else np.array(other, dtype=float),
    )


def drawn(seeds: int = 3, prompts: int = 40, seed: int = 0) -> Games:
    draw = np.random.default_rng(seed)
    shape = (seeds, prompts, 2)
    results, weights = draw.choice([0.0, 0.5, 1.0], shape, p=[0.3, 0.2, 0.5]), draw.choice([1.0, 3.0], shape)
    lengths = draw.integers(5, 90, (2, seeds, prompts))
    return games(results, weights, *lengths)


def flipped(found: Games) -> Games:
    """The same games, seen by the second row."""
    results, weights = 1 - found.results[..., ::-1], found.weights[..., ::-1]
    return Games(results, weights, found.same, found.other_length, found.length)


def test_five_prompts_by_hand() -> None:
    """Won twice, won and lost by order, a tie twice, equal answers, and one with a game that has no verdict."""
    results = [[[1, 1], [1, 0], [0.5, 0.5], [0.5, 0.5], [0, math.nan]]]
    weights = [[[3, 1], [1, 1], [1, 1], [1, 1], [1, 0]]]
    found = duel(games(results, weights, same=[[0, 0, 0, 1, 0]]))
    assert 50 + found.win_rate.value == pytest.approx(100 * 7 / 11)  # 4 + 1 + 1 + 1 + 0 of 4 + 2 + 2 + 2 + 1
    assert (found.seeds, found.prompts, found.missing) == (1, 5, 1)
    assert found.ties == pytest.approx(100 * 4 / 9) and found.same == 20
    assert found.agree == pytest.approx(100 * 2 / 3)  # of the three that were asked about with both verdicts
    assert found.lead == pytest.approx(100 / 3)
    assert found.worst == pytest.approx((100 * 7 / 14, 100 * 10 / 14))


def test_one_seed_is_tested_by_students_t_on_prompts_whatever_the_orders_repeat() -> None:
    share = np.random.default_rng(1).random(50)
    found = duel(games(np.repeat(share[None, :, None], 2, axis=2)))
    expected = scipy_stats.ttest_1samp(share, 0.5)
    low, high = expected.confidence_interval()
    assert found.win_rate.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert 50 + found.win_rate.low == pytest.approx(100 * low) and 50 + found.win_rate.high == pytest.approx(100 * high)
    assert found.agree == 100 and found.lead == 0


def test_a_seed_that_repeats_another_says_nothing_new() -> None:
    once, twice = drawn(seeds=1), drawn(seeds=1)
    twice = Games(*(np.repeat(getattr(twice, name), 2, axis=0) for name in Games.__slots__))
    assert duel(twice).win_rate.error == pytest.approx(duel(once).win_rate.error)


def test_seen_by_the_other_row_every_score_is_mirrored() -> None:
    here, there = duel(drawn()), duel(flipped(drawn()))
    for name in ("win_rate", "controlled"):
        one, other = getattr(here, name), getattr(there, name)
        assert (one.value, one.low, one.error, one.p) == pytest.approx(
            (-other.value, -other.high, other.error, other.p)
        )
    assert (here.ties, here.agree, here.lead) == pytest.approx((there.ties, there.agree, there.lead))


@pytest.mark.parametrize("ratings", [(0.0, 0.0), (0.4, -0.1)])
def test_length_control_recovers_ratings_from_a_judge_that_likes_length(ratings: tuple[float, float]) -> None:
    """A judge whose log-odds are rating + 1.5 tanh(d / sd(d)): WR is far from the ratings, LC is them."""
    draw = np.random.default_rng(2)
    length, other = draw.normal(60, 15, (2, 80)), draw.normal(40, 15, (2, 80))
    longer = length - other
    odds = np.array(ratings)[:, None] + 1.5 * np.tanh(longer / longer.std(ddof=1))
    found = duel(games(np.repeat(sigmoid(odds)[..., None], 2, axis=2), length=length, other=other))
    assert found.controlled is not None
    assert 50 + found.controlled.value == pytest.approx(100 * sigmoid(ratings).mean(), abs=1e-6)
    assert found.win_rate.value > 15


def test_length_control_has_no_number_where_one_row_wins_everything() -> None:
    assert duel(games(np.ones((1, 10, 2)))).controlled is None
    equal = duel(games(np.full((1, 10, 2), 0.5), same=np.ones((1, 10))))
    assert (equal.win_rate.value, equal.win_rate.p, equal.agree, equal.lead, equal.same) == (0, 1, None, None, 100)
    assert equal.controlled is not None and equal.controlled.value == pytest.approx(0)


def tournament(rows: int, seeds: int = 2, prompts: int = 30, seed: int = 3) -> dict[tuple[str, str], Ratio]:
    draw = np.random.default_rng(seed)
    truth = draw.normal(0, 0.8, rows)
    duels = {}
    for i in range(rows):
        for j in range(i):
            battles = draw.choice([2.0, 4.0], (seeds, prompts))
            duels[f"row {i}", f"row {j}"] = Ratio(
                draw.binomial(battles.astype(int), sigmoid(truth[i] - truth[j])) * 1.0, battles
            )
    return duels


def minorised(duels: dict[tuple[str, str], Ratio], rounds: int = 3000) -> dict[str, float]:
    """Hunter's (2004) minorisation-maximisation, one row after the other: strength = wins / sum n / (own + other)."""
    strength = {row: 1.0 for pair in duels for row in pair}
    for _ in range(rounds):
        for row in strength:
            wins = weight = 0.0
            for (first, second), found in duels.items():
                if row in (first, second):
                    other = second if row == first else first
                    won = found.wins.sum()
                    wins += won if row == first else found.battles.sum() - won
                    weight += found.battles.sum() / (strength[row] + strength[other])
            strength[row] = wins / weight
    return {row: math.log(each) for row, each in strength.items()}


def test_ratings_are_those_of_another_algorithm() -> None:
    duels = tournament(5)
    expected = minorised(duels)
    found = {each.row: each for each in standings(duels, "row 2")}
    assert {row: each.rating.value for row, each in found.items()} == pytest.approx(
        {row: each - expected["row 2"] for row, each in expected.items()}, abs=1e-8
    )
    gap = expected["row 0"] - expected["row 2"]
    assert found["row 0"].elo.value == pytest.approx(400 * gap / math.log(10))
    assert found["row 0"].win_rate.value == pytest.approx(100 / (1 + math.exp(-gap)))
    assert found["row 2"].rating.error == 0 and found["row 2"].win_rate.value == 50


def test_the_error_of_a_rating_is_that_of_refits_without_each_prompt() -> None:
    duels = tournament(4, seeds=1, prompts=60)
    without = []
    for prompt in range(60):
        left = {p: Ratio(*(np.delete(each, prompt, axis=1) for each in (r.wins, r.battles))) for p, r in duels.items()}
        without.append({each.row: each.rating.value for each in standings(left, "row 0")})
    for each in standings(duels, "row 0")[:3]:
        if each.row != "row 0":
            spread = np.array([found[each.row] for found in without])
            jackknife = math.sqrt(59 / 60 * ((spread - spread.mean()) ** 2).sum())
            assert each.rating.error == pytest.approx(jackknife, rel=0.05)


def test_one_pairs_rating_is_the_logit_of_its_win_rate_with_the_same_certainty() -> None:
    found = drawn()
    score = Ratio((found.results * found.weights).sum(-1), np.full(found.weights.shape[:2], 4.0))
    (rating,) = [each for each in standings({("a", "b"): score}, "b") if each.row == "a"]
    share = score.wins.sum() / score.battles.sum()
    direct = paired_difference(score, Ratio(score.battles / 2, score.battles), same_seeds=True)
    assert rating.win_rate.value == pytest.approx(100 * share)
    assert rating.rating.error == pytest.approx(direct.error / 100 / (share * (1 - share)))


def test_rows_that_wins_do_not_connect_have_no_ratings() -> None:
    half, won = Ratio(np.ones((1, 5)), np.full((1, 5), 2.0)), Ratio(np.full((1, 5), 2.0), np.full((1, 5), 2.0))
    with pytest.raises(ValueError, match="do not connect all rows"):
        standings({("a", "b"): half, ("c", "d"): half}, "b")
    with pytest.raises(ValueError, match="do not connect all rows"):
        standings({("a", "b"): half, ("c", "b"): won}, "b")
    ratings, _ = fitted(np.array([[0, 1], [1, 2], [2, 0]]), np.full(3, 2.0), np.full(3, 2.0), 3)
    assert ratings == pytest.approx(0)  # each beats the next in a circle


def test_simulated_verdicts_are_the_pocket_judges() -> None:
    odds = np.linspace(-4, 4, 81) + 0.003
    values = {"A>>B": (1, 3), "A>B": (1, 1), "A=B": (0.5, 1), "B>A": (0, 1), "B>>A": (0, 3)}
    results, weights = labels(odds)
    assert list(zip(results, weights, strict=True)) == [values[pocket.verdict(each)] for each in odds]
    sampled = KINDS["sampled"]
    draw = np.random.default_rng(0)
    share = sampled.of(1.2 + sampled.noise(draw, (200_000,)))[0].mean()
    assert share == pytest.approx(sigmoid(1.2), abs=0.004) and preferences(np.array([1.2]))[0] == sigmoid(1.2)


def test_power_is_that_of_the_differences_own_test() -> None:
    found = compared("arena_hard", True, 0.5, 40, 60)
    terms = found.terms(0.2)
    ps = []
    for row in terms:
        score = Ratio(row[None] / 100 + 0.5, np.ones((1, 60)))
        ps.append(paired_difference(score, Ratio(np.full((1, 60), 0.5), np.ones((1, 60))), same_seeds=True).p)
    assert 0 < detected(terms) < 1 and detected(terms) == np.mean(np.array(ps) < 0.05)


def test_a_difference_that_is_normal_is_detected_where_theory_says() -> None:
    """80% of the time at (1.96 + 0.84) standard errors."""
    noise = np.random.default_rng(0).normal(0, 1, (4000, 400))
    assert smallest_detected(lambda lead: detected(noise + lead), 1.0) == pytest.approx(2.80 / 20, rel=0.03)
    with pytest.raises(ValueError, match="simulate more calls"):
        smallest_detected(lambda lead: detected(noise + lead), 0.01)


@pytest.mark.parametrize("p", [0.5, 0.25, 0.11])
def test_noise_alone_gives_the_ratio_that_theory_gives(p: float) -> None:
    """One winner a verdict, rows nearly equal: one over the root of p (1 - p), p the win rate against the baseline."""
    draw, shape, lead = np.random.default_rng(1), (400, 2000), 0.1
    odds = math.log(p / (1 - p))

    def won(odds: float) -> np.ndarray:
        return np.stack([(odds + draw.logistic(size=shape) > 0) * 1.0, np.ones(shape)])

    luck, none = np.full(shape, 0.5), np.zeros((2, *shape))  # everywhere as usual
    pair = won(lead)
    pair[0] = (pair[0] + won(lead)[0]) / 2
    both = Comparison(won(odds + lead), none, none, won(odds), luck, 0.0, 0.0)
    direct = Comparison(pair, none, none, None, luck, 0.0, 0.0)
    z = [float((terms.mean(1) / terms.std(1)).mean()) for terms in (direct.terms(0.0), both.terms(0.0))]
    assert z[0] / z[1] == pytest.approx(1 / math.sqrt(p * (1 - p)), rel=0.12)
