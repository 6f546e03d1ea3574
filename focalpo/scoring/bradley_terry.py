"""Bradley-Terry ratings of all rows from the duels of some or all pairs: games over [seeds, prompts] in, ratings out.

    P(row i beats row j) = sigmoid(rating_i - rating_j)                       a tie is half a win for either

Newton's method on the log-likelihood, which is concave. Where every row can be reached from every other by a chain of
wins there is one finite optimum, up to a constant (Ford 1957). A rating's error is the sandwich's: a cell, a prompt at
one seed, moves it by inverse Hessian times the cell's gradient, and the cells' shares are the terms of the same crossed
effects of prompts and seeds as those of every difference (differences.py). numpy only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalpo.scoring.differences import Difference, paired_difference
from focalpo.scoring.stats import Array, Interval, Ratio, sigmoid

STEPS = 100
CLOSE = 1e-10
ELO = 400 / math.log(10)
"""Points of the Elo scale per unit of log-odds."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A row's rating minus that of the row that all are compared with, in log-odds; and its win rate against it.

    Both have an interval over prompts and seeds; the row itself has the difference 0 and no error.
    """

    row: str
    rating: Difference

    @property
    def elo(self) -> Interval:
        """The difference in Elo points."""
        return self._on(lambda log_odds: ELO * log_odds)

    @property
    def win_rate(self) -> Interval:
        """The expected win rate, in percent."""
        return self._on(lambda log_odds: 100 / (1 + math.exp(-log_odds)))

    def _on(self, scale: Callable[[float], float]) -> Interval:
        return Interval(*(scale(each) for each in (self.rating.value, self.rating.low, self.rating.high)))


def standings(duels: Mapping[tuple[str, str], Ratio], base: str) -> list[Standing]:
    """All rows, best first, from each pair's wins of the first row and battles, on the same seeds and prompts.

    Raises:
        ValueError: when there are no finite ratings: the duels do not connect all rows by wins in both directions.
    """
    rows = list(dict.fromkeys([base, *(row for pair in duels for row in pair)]))
    sides = np.array([[rows.index(row) for row in pair] for pair in duels])  # [pairs, 2]
    wins, battles = (np.stack([getattr(each, name) for each in duels.values()]) for name in ("wins", "battles"))
    ratings, inverse = fitted(sides, wins.sum((1, 2)), battles.sum((1, 2)), len(rows))
    q = sigmoid(ratings[sides[:, 0]] - ratings[sides[:, 1]])
    residual = wins - battles * q[:, None, None]  # [pairs, seeds, prompts]
    moves = np.einsum("ir,rk,ksp->isp", inverse, _signs(sides, len(rows)), residual)
    _, seeds, prompts = moves.shape
    terms = (ratings - ratings[0])[:, None, None] + seeds * prompts * (moves - moves[0])
    found = [Standing(row, _mean(terms[place])) for place, row in enumerate(rows)]
    return sorted(found, key=lambda each: -each.rating.value)


def fitted(sides: NDArray[np.int_], wins: Array, battles: Array, rows: int) -> tuple[Array, Array]:
    """Ratings with mean 0, [rows], and the inverse of the Hessian on that plane, [rows, rows].

    Args:
        sides: the two rows of each pair, [pairs, 2].
        wins: the first row's wins, and battles: all battles, both [pairs].
    """
    _check_connected(sides, wins, battles, rows)
    signs, ratings = _signs(sides, rows), np.zeros(rows)
    for _ in range(STEPS):
        q = sigmoid(signs.T @ ratings)
        inverse = np.asarray(np.linalg.pinv((signs * (battles * q * (1 - q))) @ signs.T), float)
        step = inverse @ (signs @ (wins - battles * q))
        ratings = ratings + step
        if np.abs(step).max() < CLOSE:
            return ratings, inverse
    raise ValueError("Bradley-Terry ratings did not converge; report the duels without them")


def _signs(sides: NDArray[np.int_], rows: int) -> Array:
    """1 for the first row of each pair, -1 for the second, [rows, pairs]."""
    return np.eye(rows)[:, sides[:, 0]] - np.eye(rows)[:, sides[:, 1]]


def _check_connected(sides: NDArray[np.int_], wins: Array, battles: Array, rows: int) -> None:
    beats = np.eye(rows, dtype=bool)
    for (first, second), won, lost in zip(sides, wins, battles - wins, strict=True):
        beats[first, second] |= won > 0
        beats[second, first] |= lost > 0
    for _ in range(rows):
        beats = beats @ beats
    if not beats.all():
        raise ValueError("the duels do not connect all rows by wins in both directions, so there are no finite ratings")


def _mean(terms: Array) -> Difference:
    """The mean over seeds and prompts as a difference from 0."""
    # Ratio is in percent.
    return paired_difference(Ratio(terms / 100, np.ones_like(terms)), Ratio(0 * terms, np.ones_like(terms)), True)
