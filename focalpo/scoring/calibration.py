"""Compares a judge with a published one on the same pairs: two sets of preferences in, measures of difference out.

    published, judged [pairs]    the model's preference in [1, 2], as AlpacaEval writes it: 2 when the model wins
    turned [pairs]               the same judge with the two answers' roles swapped: it sees them in the other order

Another judge's win rate is on another scale. These numbers show how far, and in which direction, the scales differ.
Intervals are over pairs: the same judges on other pairs of the same models. What other models would give, few models
cannot say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from focalpo.scoring.length_control import Gamed, LengthControlled
from focalpo.scoring.stats import Array, prompt_weights, wins_of


@dataclass(frozen=True, slots=True)
class Resampled:
    """One model's numbers in every round of a bootstrap over its pairs, each [rounds], in percent."""

    agreement: Array
    win_rate: Array
    win_rate_published: Array
    lc: Array | None = None
    lc_published: Array | None = None

    @property
    def lc_shift(self) -> Array | None:
        return None if self.lc is None or self.lc_published is None else self.lc - self.lc_published


@dataclass(frozen=True, slots=True)
class Calibration:
    """One model's pairs under both judges; shares in percent, None where they are undefined.

    `position_bias`: wins of the answer that is shown first, over both orders, minus 50; 0 is no bias.
    `consistency`: pairs with the same winner in both orders. `longer`, `longer_published`: wins of the longer answer.
    """

    model: str
    pairs: int
    agreement: float
    win_rate: float
    win_rate_published: float
    longer: float | None
    longer_published: float | None
    position_bias: float | None
    consistency: float | None
    lc: float | None = None
    lc_published: float | None = None
    resampled: Resampled | None = None

    @property
    def lc_shift(self) -> float | None:
        """This judge's length-controlled win rate minus the published judge's, in points."""
        return None if self.lc is None or self.lc_published is None else self.lc - self.lc_published


def agreement(published: Array, judged: Array) -> float:
    """Percent of pairs with the same winner; a tie agrees half with any winner, and fully with a tie."""
    return float(100 * _agreed(published, judged).mean())


def resampled(published: Array, judged: Array, lengths: tuple[Array, Array], gamed: Gamed | None) -> Resampled:
    """The numbers that have intervals, in every round; `lengths` are the reference's and the model's, [pairs].

    Length-controlled win rates need `gamed`, the whole benchmark's.
    """
    weights = prompt_weights(len(judged))
    shares = 100 * weights @ np.column_stack([_agreed(published, judged), wins_of(judged), wins_of(published)])
    means = (shares / weights.sum(1, keepdims=True)).T
    if gamed is None:
        return Resampled(*means)
    reference, model = (np.stack([each, each]) for each in lengths)
    both = LengthControlled(np.stack([judged, published]), reference, model, gamed)
    return Resampled(*means, *both.scores(weights).T)


def bounds(rounds: Array | None) -> tuple[float, float] | None:
    """The 95% percentile interval of a number in every round; None where it is undefined."""
    if rounds is None or np.isnan(rounds).all():
        return None
    low, high = np.nanpercentile(rounds, [2.5, 97.5])
    return float(low), float(high)


def longer_wins(preference: Array, reference_length: Array, model_length: Array) -> float | None:
    """Percent of pairs of different lengths that the longer answer wins, ties counted half; 50 is no bias."""
    differ = reference_length != model_length
    if not differ.any():
        return None
    longer = np.where(model_length > reference_length, _winner(preference), 1 - _winner(preference))
    return float(100 * longer[differ].mean())


def position_bias(judged: Array, turned: Array, model_shown_first: Array) -> float:
    """Advantage of being shown first, in points: the mean share won by the first answer over both orders, minus 50.

    `turned` holds the reference's preference (it had the model's role). `model_shown_first` is for `judged`; in
    `turned` the other answer came first, because the library draws the order from the instruction alone.
    """
    first_judged = np.where(model_shown_first, wins_of(judged), 1 - wins_of(judged))
    first_turned = np.where(model_shown_first, wins_of(turned), 1 - wins_of(turned))
    return float(100 * ((first_judged + first_turned).mean() / 2 - 0.5))


def consistency(judged: Array, turned: Array) -> float:
    """Percent of pairs whose winner stays the same when the order is swapped; counted as in `agreement`."""
    return agreement(judged, 2 - wins_of(turned))


def spearman(published: Sequence[float], judged: Sequence[float]) -> float | None:
    """Rank correlation of two scores of the same models, ties sharing their mean rank; None below three models."""
    if len(published) < 3:
        return None
    ranks = np.array([pd.Series(list(scores)).rank().to_numpy() for scores in (published, judged)])
    if (ranks.std(axis=1) == 0).any():
        return None  # all equal: there is no ranking to compare
    return float(np.corrcoef(ranks)[0, 1])


def spearman_rounds(published: Sequence[Array], judged: Sequence[Array]) -> Array | None:
    """`spearman` in every round, [rounds], from each model's scores, [rounds]; NaN where all scores are equal."""
    if len(published) < 3:
        return None
    sides = (pd.DataFrame(np.stack(list(scores), axis=1)).rank(axis=1).to_numpy() for scores in (published, judged))
    one, other = (ranks - ranks.mean(1, keepdims=True) for ranks in sides)
    spread = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return np.divide((one * other).sum(1), spread, out=np.full(len(one), np.nan), where=spread > 0)


def _agreed(published: Array, judged: Array) -> Array:
    """1 for a pair with the same winner, 0 for one with the other, 0.5 for a tie beside a winner."""
    return 1 - np.abs(_winner(published) - _winner(judged))


def _winner(preference: Array) -> Array:
    """1 where the model wins, 0 where the reference does, 0.5 for a tie."""
    return (np.sign(wins_of(preference) - 0.5) + 1) / 2
