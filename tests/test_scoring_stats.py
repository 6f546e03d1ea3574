"""Scores and intervals: by hand, against the published leaderboard, and in simulations with a known truth."""

import gzip
import json
import math
import os
from dataclasses import replace
from itertools import product
from math import erfc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from focalpo.scoring import stats
from focalpo.scoring.differences import holm, paired_difference, pseudo_values
from focalpo.scoring.length_control import Gamed, LengthControlled, fit, length_controlled, read_gamed
from focalpo.scoring.stats import Ratio, arena_score, interval, value, win_rate

ROOT = Path(__file__).parent.parent
PUBLISHED = ("claude-2", "gpt-3.5-turbo-0301", "vicuna-13b", "NullModel")


@pytest.fixture(scope="module")
def shared_data() -> Path:
    path = Path(os.environ.get("FOCALPO_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"published annotations may not be shipped (CC-BY-NC) and are not at {path}")
    return path


def annotations(folder: Path, name: str) -> pd.DataFrame:
    with gzip.open(folder / "alpaca_eval_annotations" / f"{name}.json.gz", "rt") as file:
        return pd.DataFrame(json.load(file))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scores_are_reproduced(shared_data: Path, name: str) -> None:
    """As on the leaderboard, to the last digits of a float. NullModel's row was computed before the preferences of its
    file were rounded to ten decimals; LC is as far off as the gamed rows, which are a reconstruction, are."""
    table = annotations(shared_data, name)
    preference = table["preference"].to_numpy(float)
    leaderboard = pd.read_csv(shared_data / "ae2_leaderboard.csv", index_col=0).loc[name]
    digits = 2e-10 if name == "NullModel" else 2e-14
    assert value(win_rate(preference[None])) == pytest.approx(leaderboard["win_rate"], abs=digits)
    assert stats.standard_error(preference) == pytest.approx(leaderboard["standard_error"], abs=digits)
    assert stats.discrete_win_rate(preference) == pytest.approx(leaderboard["discrete_win_rate"], abs=2e-14)
    gamed = read_gamed(shared_data / "df_gamed_reconstructed.csv")
    lengths = [table[f"output_{side}"].str.len().to_numpy(float) for side in (1, 2)]
    found = length_controlled(fit(preference, *lengths, gamed), gamed)
    assert found == pytest.approx(leaderboard["length_controlled_winrate"], abs=6e-7)


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


def synthetic(prompts: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, Gamed]:
    """A benchmark whose judge prefers long answers; the gamed rows show by how much."""
    draw = np.random.default_rng(seed)
    difficulty = np.concatenate([[0.0], draw.normal(0, 0.7, prompts - 1)])
    reference, model = draw.integers(200, 900, prompts).astype(float), draw.integers(300, 1500, prompts).astype(float)
    delta = reference - model
    lift = -1.5 * np.tanh(delta / delta.std(ddof=1))
    preference = 1 + 1 / (1 + np.exp(-(lift + difficulty - 0.5 + draw.normal(0, 1, prompts))))
    gamed_length = np.concatenate([np.full(prompts, -0.9), np.full(prompts, 0.9)])
    gamed_preference = 1 / (1 + np.exp(1.5 * gamed_length - np.tile(difficulty, 2)))
    return preference, reference, model, Gamed(gamed_length, np.tile(difficulty, 2), gamed_preference, difficulty)


# alpaca_eval imports pkg_resources, which warns that it is deprecated.
@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated", "ignore:Deprecated call to `pkg_resources")
def test_our_length_control_equals_the_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preference, reference, model, gamed = synthetic()
    prompts = len(preference)
    pd.DataFrame(
        {
            "model": ["verbose"] * prompts + ["concise"] * prompts,
            "index": [*range(prompts)] * 2,
            "preference": gamed.preference,
            "std_delta_len": np.arctanh(gamed.length),
            "instruction_difficulty": gamed.difficulty,
            "not_gamed_baseline": False,
        }
    ).to_csv(tmp_path / "df_gamed.csv", index=False)
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(tmp_path / "df_gamed.csv"))
    rows = [
        {"instruction": f"i{i}", "output_1": "x" * int(reference[i]), "output_2": "y" * int(model[i]),
         "generator_1": "gpt4_1106_preview", "generator_2": "ours", "preference": preference[i],
         "annotator": "weighted_alpaca_eval_gpt4_turbo"}
        for i in range(prompts)
    ]  # fmt: skip
    theirs = glm_winrate.get_length_controlled_winrate(rows, save_weights_dir=None)
    sklearn.set_config(enable_metadata_routing=False)  # the library enables it for the whole process
    read = read_gamed(tmp_path / "df_gamed.csv")
    ours = length_controlled(fit(preference, reference, model, read), read)
    assert ours == pytest.approx(theirs["length_controlled_winrate"], abs=1e-6)
    assert value(win_rate(preference[None])) == pytest.approx(theirs["win_rate"], abs=1e-9)


def test_resampled_length_control_equals_a_refit_of_every_round() -> None:
    preference, reference, model, gamed = synthetic()
    metric = LengthControlled(preference[None], reference[None], model[None], gamed)
    weights = stats.prompt_weights(len(preference))[:20]
    quick = metric.scores(weights)[:, 0]
    exact = []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(len(preference)), row)
        again = replace(gamed, prompt_difficulty=gamed.prompt_difficulty[drawn])
        exact.append(optimum(preference[drawn], reference[drawn] - model[drawn], again, metric.fits[0].inverse_penalty))
    assert np.abs(quick - exact).max() < 0.002 < 0.5 < np.std(exact)
    assert value(metric) == pytest.approx(length_controlled(metric.fits[0], gamed), abs=0.01)


def optimum(preference: np.ndarray, delta: np.ndarray, gamed: Gamed, c: float) -> float:
    """LC at the exact minimum.

    Newton's method within each of the 27 sign patterns of b, where |b|_1 is linear; the lowest optimum whose signs
    match its pattern.
    """
    own = np.column_stack([np.tanh(delta / delta.std(ddof=1)), gamed.prompt_difficulty, np.ones(len(delta))])
    x = np.concatenate([np.column_stack([gamed.length, gamed.difficulty, np.zeros(len(gamed.length))]), own])
    p, w = np.concatenate([gamed.preference, preference - 1]), np.repeat([0.1, 1.0], [len(gamed.length), len(own)])
    found = []
    for signs in map(np.array, product((-1, 0, 1), repeat=3)):
        b, active = np.zeros(3), signs != 0
        for _ in range(30):
            q = 1 / (1 + np.exp(-x @ b))
            gradient = c * x.T @ (w * (q - p)) + signs
            hessian = c * (x * (w * q * (1 - q))[:, None]).T @ x
            b[active] -= np.linalg.solve(hessian[np.ix_(active, active)], gradient[active])
        if (np.sign(b) == signs).all():
            loss = c * np.sum(w * (np.logaddexp(0, x @ b) - p * (x @ b))) + np.abs(b).sum()
            found.append((loss, b[1], b[2]))
    _, psi, theta = min(found)
    return float(100 * np.mean(1 / (1 + np.exp(-theta - psi * gamed.prompt_difficulty))))


def test_coefficients_that_the_penalty_sets_to_zero_still_give_optimal_rounds() -> None:
    """Lengths without effect: phi or psi is 0 in the fit, and rounds must still be optima."""
    preference, reference, model, gamed = synthetic(40)
    gamed = replace(gamed, preference=np.full(80, 0.5))
    metric = LengthControlled(preference[None], reference[None], model[None], gamed)
    c = metric.fits[0].inverse_penalty
    weights = stats.prompt_weights(40)[:10]
    drawn = [np.repeat(np.arange(40), row) for row in weights.astype(int)]
    exact = [
        optimum(preference[i], reference[i] - model[i], replace(gamed, prompt_difficulty=gamed.prompt_difficulty[i]), c)
        for i in drawn
    ]
    assert metric.scores(weights)[:, 0] == pytest.approx(exact, abs=0.01)


def test_answers_as_long_as_the_reference_have_a_length_controlled_score() -> None:
    preference, reference, _, gamed = synthetic(60)
    metric = LengthControlled(preference[None], reference[None], reference[None], gamed)
    assert np.isfinite(metric.scores(stats.prompt_weights(60)[:50])).all()


def test_win_rate_by_hand() -> None:
    """Preferences 2, 1.5, 1.25 and an old-style tie 0: wins 1, .5, .25, .5 of 4."""
    preference = np.array([2.0, 1.5, 1.25, 0.0])
    assert value(win_rate(preference[None])) == pytest.approx(56.25)
    assert stats.discrete_win_rate(preference) == pytest.approx(50.0)
    assert stats.standard_error(preference) == pytest.approx(100 * np.std([1, 0.5, 0.25, 0.5], ddof=1) / 2)


def test_arena_score_by_hand_and_against_a_bradley_terry_fit() -> None:
    """Prompt 1: a strong win (3 battles) and a tie; prompt 2: a loss and a strong loss: (3 + .5) / (3 + 1 + 1 + 3)."""
    results, weights = np.array([[[1.0, 0.5], [0.0, 0.0]]]), np.array([[[3.0, 1.0], [1.0, 3.0]]])
    assert value(arena_score(results, weights)) == pytest.approx(100 * 3.5 / 8)
    draw = np.random.default_rng(1)
    results = draw.choice([0.0, 0.5, 1.0], (1, 50, 2))
    weights = np.where(results == 0.5, 1.0, draw.choice([1.0, 3.0], results.shape))
    rating = 0.0
    for _ in range(100):  # Newton on the Bradley-Terry log-likelihood of one rating against a baseline at 0
        p = 1 / (1 + np.exp(-rating))
        rating += (weights * (results - p)).sum() / (weights * p * (1 - p)).sum()
    assert value(arena_score(results, weights)) == pytest.approx(100 / (1 + np.exp(-rating)), abs=0.01)


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


def test_the_jackknife_of_length_control_has_the_bootstraps_error() -> None:
    preference, reference, model, gamed = synthetic()
    metric = LengthControlled(preference[None], reference[None], model[None], gamed)
    (found,) = pseudo_values(metric)
    drawn = metric.scores(stats.prompt_weights(len(found))[:2000])
    assert found.std(ddof=1) / math.sqrt(len(found)) == pytest.approx(drawn.std(ddof=1), rel=0.05)
    assert found.mean() == pytest.approx(value(metric), abs=0.1)


def test_rows_without_a_verdict_are_left_out() -> None:
    """Win rate and Arena-Hard score are those of the other rows; LC keeps its prompt in the score, not in the fit."""
    preference, reference, model, gamed = synthetic(60)
    preference[[3, 7]] = math.nan
    kept = ~np.isnan(preference)
    assert value(win_rate(preference[None])) == pytest.approx(100 * (preference[kept] - 1).mean())
    games = np.array([[[1.0, math.nan], [0.0, 0.5]]])
    assert value(arena_score(games, np.array([[[3, 0], [1, 1]]]))) == pytest.approx(100 * 3.5 / 5)
    metric = LengthControlled(preference[None], reference[None], model[None], gamed)
    assert value(metric) == pytest.approx(length_controlled(metric.fits[0], gamed), abs=0.05)
    weights = np.full(60, 60 / 59)
    weights[3] = 0
    (without,) = metric.scores(weights[None])
    assert without.item() == pytest.approx(metric.left_out()[0, 3], abs=1e-6)
