"""Arena-Hard's score with style control: games and both answers of every prompt in, one score per model out.

    logit P(model m wins a battle) = rating_m + sum_k style_k * z_k
    z = (length, headers, lists, bold) of the answer against the baseline's, standardised over all battles
    score_m = 100 * sigmoid(rating_m)                                                   battle between equal styles

One fit over all models, as upstream (lmarena/arena-hard-auto, show_result.py): the weight of style belongs to the
judge, not to the model, so a model added to the table changes the others' scores a little. A strong verdict is three
battles, the likelihood is unpenalised, a tie is half a win. Upstream counts length in gpt-4o's tokens; here it is in
characters, because the term is a ratio, (a - b) / (a + b), and needs no tokenizer. numpy only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from focalpo.scoring.stats import Array

CODE = re.compile(r"```[^`]*```")
MARKS = (
    re.compile(r"^#{1,6}\s", re.M),
    re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.M),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)
Name = TypeVar("Name")
STEPS = 100
CLOSE = 1e-10


@dataclass(frozen=True, slots=True)
class Played:
    """One model's games, [prompts, games], and its answers' styles relative to the baseline's, [prompts, 4]."""

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


def style_controlled(models: Mapping[Name, Played]) -> dict[Name, float]:
    """Score of each model with style control, in percent; a style that never differs is left out of the fit.

    Raises:
        ValueError: if a rating has no finite optimum: a model won or lost every battle, or style alone decides.
    """
    counts = np.concatenate([model.weights.ravel() for model in models.values()])
    wins = np.concatenate([model.results.ravel() for model in models.values()])
    style = np.concatenate([np.repeat(model.style, model.results.shape[1], axis=0) for model in models.values()])
    style = style[:, np.ptp(style, axis=0) > 0]
    mean = np.average(style, axis=0, weights=counts)
    spread = np.sqrt(counts @ (style - mean) ** 2 / (counts.sum() - 1))
    sizes = [model.results.size for model in models.values()]
    one_hot = np.repeat(np.eye(len(models)), sizes, axis=0)
    ratings = _fitted(np.column_stack([one_hot, (style - mean) / spread]), wins, counts)[: len(models)]
    return dict(zip(models, 100 / (1 + np.exp(-ratings)), strict=True))


def _counts(text: str) -> list[int]:
    prose = CODE.sub("", text)
    return [len(text), *(len(mark.findall(prose)) for mark in MARKS)]


def _fitted(x: Array, wins: Array, counts: Array) -> Array:
    """Newton's method on the log-likelihood sum counts * (wins log q + (1 - wins) log (1 - q)), q = sigmoid(x b)."""
    b = np.zeros(x.shape[1])
    for _ in range(STEPS):
        q = 1 / (1 + np.exp(-np.clip(x @ b, -30, 30)))
        hessian = (x * (counts * q * (1 - q))[:, None]).T @ x
        step = np.linalg.lstsq(hessian, x.T @ (counts * (wins - q)), rcond=None)[0]
        b = b + step
        if np.abs(step).max() < CLOSE:
            return b
    raise ValueError(
        "style control has no finite ratings: a model won or lost every battle, or style alone decides; report the "
        "score without style control"
    )
