"""Scores with intervals: verdicts of one row of the table over [seeds, prompts] in, intervals out.

    metric.scores(weights [rounds, prompts]) -> [rounds, seeds]          a score for every resampling of the prompts
    metric.left_out() -> [seeds, prompts]                                the score without each prompt

The prompt is the unit of resampling: both games of a prompt, and the answers of all seeds to it, are resampled together
(a cluster bootstrap). If a row has several training seeds, seeds are resampled too, crossed with the prompts, so that
an interval covers both "other prompts" and "other seeds". numpy only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STRONG = 3
"""Battles of an Arena-Hard game that is won or lost by a strong verdict."""
UNSURE = 0.05
"""A result so close to a half has no winner."""
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

    def left_out(self) -> Array:
        """Percent, [seeds, prompts]: the score without each prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """100 * sum of wins / sum of battles; both [seeds, prompts], and both 0 where there is no verdict."""

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

    def left_out(self) -> Array:
        wins, battles = (each.sum(1, keepdims=True) - each for each in (self.wins, self.battles))
        return 100 * wins / battles


class Remembered:
    """Caches a metric's scores, whole, resampled and without each prompt: its interval and all differences use them."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.seeds, self.prompts = metric.seeds, metric.prompts
        self._kept: dict[str, Array] = {}

    def scores(self, weights: Array) -> Array:
        for weigh in (whole_weights, prompt_weights):
            if weights is weigh(self.prompts):
                return self._once(weigh.__name__, lambda: self._metric.scores(weights))
        return self._metric.scores(weights)

    def left_out(self) -> Array:
        return self._once("left_out", self._metric.left_out)

    def _once(self, name: str, computed: Callable[[], Array]) -> Array:
        if name not in self._kept:
            self._kept[name] = computed()
        return self._kept[name]


def win_rate(preferences: Array) -> Ratio:
    """AlpacaEval's raw win rate, from preferences in [1, 2], [seeds, prompts]; NaN, no verdict, is left out."""
    judged = ~np.isnan(preferences)
    return Ratio(np.where(judged, wins_of(preferences), 0.0), judged.astype(float))


def wins_of(preferences: Array) -> Array:
    """The model's wins in [0, 1], from preferences in [1, 2]; 0, an old code for a tie, is half a win."""
    return np.where(preferences == 0, 1.5, preferences) - 1


def arena_score(results: Array, weights: Array) -> Ratio:
    """Arena-Hard's score, from the games' results and weights, both [seeds, prompts, games].

    With one baseline the Bradley-Terry fit has this closed form: sum(k x) / sum(k). A game of weight 0 has no verdict.
    """
    return Ratio((np.where(weights > 0, results, 0.0) * weights).sum(-1), weights.sum(-1))


def discrete_win_rate(preferences: Array) -> float:
    """Percent of wins plus half the ties of one run, [prompts], each preference first rounded to win, tie or loss."""
    x = wins_of(preferences)
    return float(100 * np.mean(np.where(x == 0.5, 0.5, np.round(x))))


def standard_error(preferences: Array) -> float:
    """The library's standard error of the win rate of one run, [prompts], in percent; NaN, no verdict, is left out."""
    return mean_error(wins_of(preferences[~np.isnan(preferences)]))


def mean_error(shares: Array) -> float:
    """The standard error of a mean of shares of one run, [prompts], in percent."""
    return float(100 * shares.std(ddof=1) / np.sqrt(len(shares)))


def battle_error(results: Array, weights: Array) -> float:
    """Arena-Hard's own standard error of one run, [prompts, games], in percent.

    Upstream resamples battles, counting a strong verdict as three; this is its limit for many rounds.
    """
    results = np.where(weights > 0, results, 0.0)
    n = weights.sum()
    mean = (weights * results).sum() / n
    return float(100 * np.sqrt((weights * (results - mean) ** 2).sum()) / n)


def value(metric: Metric) -> float:
    """The score on the prompts as they are, averaged over seeds."""
    return float(metric.scores(whole_weights(metric.prompts)).mean())


def seed_deviation(metric: Metric) -> float | None:
    """Standard deviation of the score over seeds, on the same prompts; None for a single seed."""
    if metric.seeds < 2:
        return None
    return float(metric.scores(whole_weights(metric.prompts))[0].std(ddof=1))


def bootstrap_error(metric: Metric) -> float:
    """Standard error of the score, in points: its spread over rounds that resample prompts (and seeds)."""
    return float(_resampled(metric, stream=0).std(ddof=1))


def interval(metric: Metric) -> Interval:
    """The score with its bootstrap percentile interval over prompts and, if there are several, seeds."""
    drawn = _resampled(metric, stream=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value(metric), float(low), float(high))


def _resampled(metric: Metric, stream: int) -> Array:
    """The score in every round, [rounds]; rows with the same stream share the draws of their seeds."""
    scores = metric.scores(prompt_weights(metric.prompts))
    return (scores * _seed_weights(metric.seeds, stream)).sum(-1)


@lru_cache(maxsize=16)
def whole_weights(prompts: int) -> Array:
    """Every prompt once, [1, prompts]."""
    return np.ones((1, prompts))


@lru_cache(maxsize=4)
def prompt_weights(prompts: int) -> Array:
    """How often each prompt is drawn in each round, [rounds, prompts]; the same for every row of a table."""
    draw = np.random.default_rng([SEED, prompts])
    return draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=ROUNDS).astype(float)


@lru_cache(maxsize=16)
def _seed_weights(seeds: int, stream: int) -> Array:
    draw = np.random.default_rng([SEED, seeds, stream])
    return draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=ROUNDS) / seeds


def sigmoid(x: NDArray) -> NDArray:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))
