"""Two rows' duel on one benchmark: games over [seeds, prompts, 2 orders] in, the first row's scores out.

    win rate = 100 * sum of results / sum of weights                       50: neither row is ahead
    length control: logit P(first row wins) = rating_seed + phi * t,  t = tanh((length - other) / sd);  at t = 0

A prompt is one unit, whatever the judge thinks of its two orders, and seeds are crossed with prompts, as in
differences.py: a score is tested against 50 by the jackknife's pseudo-values and Student's t. The weight of length,
phi, belongs to the judge and is shared by all seeds. AlpacaEval's terms for a prompt's difficulty and its gamed rows
describe one baseline, and have no place between two rows. numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalpo.scoring.differences import Difference, paired_difference
from focalpo.scoring.stats import STRONG, UNSURE, Array, Metric, Ratio, arena_score, value
from focalpo.scoring.style_control import NoRatingsError, Played, StyleControlled

EVEN = 50.0


@dataclass(frozen=True, slots=True)
class Games:
    """The games of two rows: the first one's results and the games' weights, [seeds, prompts, 2 orders].

    In the first order its answer leads; a game of weight 0 has no verdict. `same` prompts have equal answers; lengths
    are in characters; all three are [seeds, prompts].
    """

    results: Array
    weights: Array
    same: Array
    length: Array
    other_length: Array


@dataclass(frozen=True, slots=True)
class Duel:
    """The first row's scores in one duel; `win_rate` and `controlled` are differences from 50, in points.

    `controlled` is None where no finite fit exists. `ties` is in percent of games, `same` (equal answers, not asked) of
    prompts; of the prompts that were asked about, `agree` is the percentage with the same winner in both orders and
    `lead` how many points an answer gains by being shown first, None where none was asked. `missing` games have no
    verdict; `worst` is the win rate if the first row had lost them all, and if it had won them all.
    """

    seeds: int
    prompts: int
    win_rate: Difference
    controlled: Difference | None
    ties: float
    same: float
    agree: float | None
    lead: float | None
    missing: int
    worst: tuple[float, float] | None


def duel(games: Games) -> Duel:
    """Score the games of two rows on one benchmark."""
    judged = games.weights > 0
    asked = judged.all(-1) & ~games.same.astype(bool)
    results = games.results[asked]
    winners = _winner(results)
    return Duel(
        seeds=len(games.results),
        prompts=games.results.shape[1],
        win_rate=from_even(arena_score(games.results, games.weights)),
        controlled=_controlled(games),
        ties=float(100 * (_winner(games.results[judged]) == 0).mean()),
        same=float(100 * games.same.mean()),
        agree=float(100 * (winners[:, 0] == winners[:, 1]).mean()) if len(results) else None,
        lead=float(100 * (results[:, 0] - results[:, 1]).mean()) if len(results) else None,
        missing=int((~judged).sum()),
        worst=None if judged.all() else _worst(games, judged),
    )


def from_even(score: Metric) -> Difference:
    """A score's difference from 50, with interval and p-value over prompts and, where there are several, seeds."""
    shape = (score.seeds, score.prompts)
    return paired_difference(score, Ratio(np.full(shape, EVEN / 100), np.ones(shape)), same_seeds=True)


def _controlled(games: Games) -> Difference | None:
    """The win rate between answers of equal length."""
    longer = games.length - games.other_length
    spread = longer.std(ddof=1)
    t = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)
    runs = zip(games.results, games.weights, t[..., None], strict=True)
    try:
        return from_even(StyleControlled([Played(*run) for run in runs]))
    except NoRatingsError:  # one row won every game, or length alone decides
        return None


def _worst(games: Games, judged: NDArray[np.bool_]) -> tuple[float, float]:
    counted = np.where(judged, games.weights, STRONG)
    lost, won = (value(arena_score(np.where(judged, games.results, result), counted)) for result in (0.0, 1.0))
    return lost, won


def _winner(results: Array) -> Array:
    """1 where the first row wins, -1 where the other does, 0 for a tie."""
    return np.where(np.abs(results - 0.5) < UNSURE, 0, np.sign(results - 0.5))
