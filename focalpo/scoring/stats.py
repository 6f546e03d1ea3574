"""Scores with intervals: verdicts of one row of the table over [seeds, prompts] in, intervals and p-values out.

    metric.scores(weights [rounds, prompts]) -> [rounds, seeds]          a score for every resampling of the prompts

The prompt is the unit of resampling: both games of a prompt, and the answers of all seeds to it, are resampled together
(a cluster bootstrap). If a row has several training seeds, seeds are resampled too, crossed with the prompts, so that
an interval covers both "other prompts" and "other seeds". numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROUNDS = 10_000
SEED = 20250106


class Metric(Protocol):
    """A score that can be computed for any weights of the prompts."""

    @property
    def seeds(self) -> int: ...

    @property
    def prompts(self) -> int: ...

    def scores(self, weights: Array) -> Array:
        """Percent, [rounds, seeds], for prompt weights [rounds, prompts]."""
        ...


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """100 * sum of wins / sum of battles; both [seeds, prompts]."""

    wins: Array
    battles: Array

    @property
    def seeds(self) -> int:
        return self.wins.shape[0]

    @property
    def prompts(self) -> int:
        return self.wins.shape[1]

    def scores(self, weights: Array) -> Array:
        return 100 * (weights @ self.wins.T) / (weights @ self.battles.T)


class Remembered:
    """Caches the resampled scores of a metric: its interval and all its differences use the same rounds."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.seeds, self.prompts = metric.seeds, metric.prompts
        self._drawn: Array | None = None

    def scores(self, weights: Array) -> Array:
        if weights is not prompt_weights(self.prompts):
            return self._metric.scores(weights)
        if self._drawn is None:
            self._drawn = self._metric.scores(weights)
        return self._drawn


def win_rate(preferences: Array) -> Ratio:
    """AlpacaEval's raw win rate, from preferences in [1, 2], [seeds, prompts]."""
    wins = wins_of(preferences)
    return Ratio(wins, np.ones_like(wins))


def wins_of(preferences: Array) -> Array:
    """The model's wins in [0, 1], from preferences in [1, 2]; 0, an old code for a tie, is half a win."""
    return np.where(preferences == 0, 1.5, preferences) - 1


def arena_score(results: Array, weights: Array) -> Ratio:
    """Arena-Hard's score, from the games' results and weights, both [seeds, prompts, games].

    With one baseline the Bradley-Terry fit has this closed form: sum(k x) / sum(k).
    """
    return Ratio((results * weights).sum(-1), weights.sum(-1))


def discrete_win_rate(preferences: Array) -> float:
    """Percent of wins plus half the ties of one run, [prompts], each preference first rounded to win, tie or loss."""
    x = wins_of(preferences)
    return float(100 * np.mean(np.where(x == 0.5, 0.5, np.round(x))))


def standard_error(preferences: Array) -> float:
    """The library's standard error of the win rate of one run, [prompts], in percent."""
    return mean_error(wins_of(preferences))


def mean_error(shares: Array) -> float:
    """The standard error of a mean of shares of one run, [prompts], in percent."""
    return float(100 * shares.std(ddof=1) / np.sqrt(len(shares)))


def battle_error(results: Array, weights: Array) -> float:
    """Arena-Hard's own standard error of one run, [prompts, games], in percent.

    Upstream resamples battles, counting a strong verdict as three; this is its limit for many rounds.
    """
    n = weights.sum()
    mean = (weights * results).sum() / n
    return float(100 * np.sqrt((weights * (results - mean) ** 2).sum()) / n)


def value(metric: Metric) -> float:
    """The score on the prompts as they are, averaged over seeds."""
    return float(metric.scores(np.ones((1, metric.prompts))).mean())


def seed_deviation(metric: Metric) -> float | None:
    """Standard deviation of the score over seeds, on the same prompts; None for a single seed."""
    if metric.seeds < 2:
        return None
    return float(metric.scores(np.ones((1, metric.prompts)))[0].std(ddof=1))


def bootstrap_error(metric: Metric) -> float:
    """Standard error of the score, in points: its spread over rounds that resample prompts (and seeds)."""
    return float(_resampled(metric, stream=0).std(ddof=1))


def interval(metric: Metric) -> Interval:
    """The score with its bootstrap percentile interval over prompts and, if there are several, seeds."""
    drawn = _resampled(metric, stream=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value(metric), float(low), float(high))


def paired_difference(a: Metric, b: Metric, same_seeds: bool) -> tuple[Interval, float]:
    """Interval of a - b on the same resampled prompts, and the two-sided bootstrap p-value of "no difference".

    Args:
        same_seeds: seed i of both shares data order and sampling, so that seeds are resampled in pairs as well.
    """
    assert a.prompts == b.prompts and (not same_seeds or a.seeds == b.seeds)
    drawn = _resampled(a, stream=0) - _resampled(b, stream=0 if same_seeds else 1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    # + 1: a bootstrap with finitely many rounds cannot show that p is 0 (Davison and Hinkley 1997, section 4.2).
    p = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    return Interval(value(a) - value(b), float(low), float(high)), float(p)


def equivalence(a: Metric, b: Metric, same_seeds: bool, margin: float) -> float:
    """The p-value of "a and b differ by `margin` points or more": the larger of two one-sided bootstrap tests.

    Below .05 the difference is smaller than the margin in either direction (Schuirmann 1987's two one-sided tests).
    """
    drawn = _resampled(a, stream=0) - _resampled(b, stream=0 if same_seeds else 1)
    beyond = max(np.sum(drawn <= -margin), np.sum(drawn >= margin))
    return float((beyond + 1) / (len(drawn) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for testing several differences at once (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return corrected


def detectable_difference(a: Metric, b: Metric, same_seeds: bool) -> float:
    """The smallest true difference, in points, that this many prompts and seeds detect with 80% power at p < .05.

    It is (1.96 + 0.84) standard deviations of the paired bootstrap difference.
    """
    drawn = _resampled(a, stream=0) - _resampled(b, stream=0 if same_seeds else 1)
    return float((1.960 + 0.842) * drawn.std(ddof=1))


def _resampled(metric: Metric, stream: int) -> Array:
    """The score in every round, [rounds]; rows with the same stream share the draws of their seeds."""
    scores = metric.scores(prompt_weights(metric.prompts))
    return (scores * _seed_weights(metric.seeds, stream)).sum(-1)


@lru_cache(maxsize=4)
def prompt_weights(prompts: int) -> Array:
    """How often each prompt is drawn in each round, [rounds, prompts]; the same for every row of a table."""
    draw = np.random.default_rng([SEED, prompts])
    return draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=ROUNDS).astype(float)


@lru_cache(maxsize=16)
def _seed_weights(seeds: int, stream: int) -> Array:
    draw = np.random.default_rng([SEED, seeds, stream])
    return draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=ROUNDS) / seeds
