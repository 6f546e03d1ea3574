"""Scores and intervals: by hand, against the published leaderboard, and in simulations with a known truth."""

import gzip
import json
import math
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from focalpo.scoring import stats
from focalpo.scoring.differences import pseudo_values
from focalpo.scoring.length_control import Gamed, LengthControlled, fit, length_controlled, read_gamed
from focalpo.scoring.stats import arena_score, value, win_rate

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
