"""Arena-Hard's score with style control: games and both answers of every prompt in, one score per model out.

    logit P(model m wins a battle) = rating_m + sum_k style_k * x_k / sd(x_k)
    x = (length, headers, lists, bold) of the answer against the baseline's, 0 where both have the same style
    score_m = 100 * sigmoid(rating_m)                                                   battle between equal styles

One fit over all models, as upstream (lmarena/arena-hard-auto, show_result.py): the weight of style belongs to the
judge, not to the model, so a model added to the table changes the others' scores a little. A strong verdict is three
battles, the likelihood is unpenalised, a tie is half a win. Upstream standardises x around its mean over all battles,
so that its number is that of a battle at the table's mean style, not at equal style, and moves with the rows of the
table. Upstream counts length in gpt-4o's tokens; here it is in characters, because the term is a ratio,
(a - b) / (a + b), and needs no tokenizer. numpy only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focalpo.scoring.stats import Array, Metric, sigmoid

CODE = re.compile(r"```[^`]*```")
MARKS = (
    re.compile(r"^#{1,6}\s", re.M),
    re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.M),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)
STEPS = 100
CLOSE = 1e-10
BLOCK = 256  # rounds computed together


class NoRatingsError(ValueError):
    """A model won or lost every battle, or style alone decides: the ratings have no finite optimum."""


@dataclass(frozen=True, slots=True)
class Played:
    """One model's games, [prompts, games], and its answers' styles relative to the baseline's, [prompts, 4].

    A game of weight 0 has no verdict.
    """

    results: Array
    weights: Array
    style: Array


def style_difference(answers: Sequence[str], baselines: Sequence[str]) -> Array:
    """Style of the answers relative to the baselines', [prompts, 4]: length, headers, list items and bold text.

    Length is (a - b) / (a + b); the others, counted per character and outside code, are (a - b) / (a + b + 1).
    """
    ours, theirs = (np.array([_counts(text) for text in texts], dtype=float) for texts in (answers, baselines))
    total = ours[:, 0] + theirs[:, 0]
    length = np.divide(ours[:, 0] - theirs[:, 0], total, out=np.zeros(len(total)), where=total > 0)
    a, b = (side[:, 1:] / (side[:, :1] + 1) for side in (ours, theirs))
    return np.column_stack([length, (a - b) / (a + b + 1)])


class StyleControlled:
    """All models' scores with style control, [rounds, models], for weights of the prompts that they share.

    A round is one Newton step from the full fit, on the sums over its prompts (the one-step bootstrap): the likelihood
    is smooth and a round is near the full fit. At weights of 1 the step is 0 and the scores are the full fit's.

    Raises:
        NoRatingsError: if a model won or lost every battle, or style alone decides.
    """

    def __init__(self, models: Sequence[Played]) -> None:
        self.seeds, self.prompts = len(models), len(models[0].results)
        counts, style = (np.stack([getattr(model, name) for model in models]) for name in ("weights", "style"))
        results = np.where(counts > 0, np.stack([model.results for model in models]), 0.0)
        battles, wins = counts.sum(-1), (counts * results).sum(-1)
        style = style[..., np.ptp(style, axis=(0, 1)) > 0]
        self._mean = np.average(style, axis=(0, 1), weights=battles)
        square = np.average((style - self._mean) ** 2, axis=(0, 1), weights=battles)
        self._spread = np.sqrt(square * battles.sum() / (battles.sum() - 1))
        one_hot = np.repeat(np.eye(self.seeds)[:, None], self.prompts, axis=1)
        x = np.concatenate([one_hot, style / self._spread], axis=-1)
        flat = x.reshape(-1, x.shape[-1])
        share = np.divide(wins, battles, out=np.zeros_like(wins), where=battles > 0)
        self.coefficients = _fitted(flat, share.ravel(), battles.ravel())
        q = sigmoid(x @ self.coefficients)
        self._gradient = np.einsum("mp,mpk->pk", wins - battles * q, x)
        self._hessian = np.einsum("mp,mpk,mpl->pkl", battles * q * (1 - q), x, x)

    def at_equal_style(self) -> Array:
        """Score of a battle between answers of equal style, [models]."""
        return 100 * sigmoid(self.coefficients[: self.seeds])

    def at_mean_style(self) -> Array:
        """Score of a battle of the mean style difference over all battles, [models]: what upstream reports."""
        shift = self.coefficients[self.seeds :] @ (self._mean / self._spread)
        return 100 * sigmoid(self.coefficients[: self.seeds] + shift)

    def scores(self, weights: Array) -> Array:
        """Scores at equal style, [rounds, models]."""
        found = []
        for first in range(0, len(weights), BLOCK):
            drawn = weights[first : first + BLOCK]
            hessian = np.tensordot(drawn, self._hessian, 1)
            step = np.linalg.solve(hessian, (drawn @ self._gradient)[..., None])[..., 0]
            found.append(100 * sigmoid((self.coefficients + step)[:, : self.seeds]))
        return np.concatenate(found)

    def left_out(self) -> Array:
        """The scores without each prompt, [models, prompts]."""
        return self.scores(1 - np.eye(self.prompts)).T


class Models:
    """The metric of some of the models that are fitted together: the runs of one row of the table."""

    def __init__(self, fitted: Metric, places: Sequence[int]) -> None:
        self._fitted, self._places = fitted, list(places)
        self.seeds, self.prompts = len(self._places), fitted.prompts

    def scores(self, weights: Array) -> Array:
        return self._fitted.scores(weights)[:, self._places]

    def left_out(self) -> Array:
        return self._fitted.left_out()[self._places]


def _counts(text: str) -> list[int]:
    prose = CODE.sub("", text)
    return [len(text), *(len(mark.findall(prose)) for mark in MARKS)]


def _fitted(x: Array, wins: Array, counts: Array) -> Array:
    """Newton's method on the log-likelihood sum counts * (wins log q + (1 - wins) log (1 - q)), q = sigmoid(x b)."""
    b = np.zeros(x.shape[1])
    for _ in range(STEPS):
        q = sigmoid(np.clip(x @ b, -30, 30))
        hessian = (x * (counts * q * (1 - q))[:, None]).T @ x
        step = np.linalg.lstsq(hessian, x.T @ (counts * (wins - q)), rcond=None)[0]
        b = b + step
        if np.abs(step).max() < CLOSE:
            return b
    raise NoRatingsError(
        "style control has no finite ratings: a model won or lost every battle, or style alone decides"
    )
