"""AlpacaEval's length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475), the same to every printed digit.

    P(model wins prompt i) = sigmoid(theta + phi * tanh(d_i / sd(d)) + psi * difficulty_i)
    d = len(reference) - len(model), in characters
    LC = 100 * mean_i sigmoid(theta + psi * difficulty_i)                                    the length term set to 0

Fitted by L1-penalised logistic regression on soft labels together with "gamed" rows (the reference rewritten longer and
shorter against itself), which teach phi what length alone does to the judge and carry no theta.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from focalpo.judging.stats import Array

GAMED_WEIGHT = 0.2 / 2  # a fifth of the weight of the model's own rows, over two gamed models
PENALTIES = np.logspace(-4, 4, 10)


@dataclass(frozen=True, slots=True)
class Gamed:
    """The gamed rows, [rows], and the difficulty of every prompt, [prompts], in benchmark order."""

    length: Array
    difficulty: Array
    preference: Array
    prompt_difficulty: Array


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients (phi, psi, theta) and the inverse penalty C that cross-validation chose."""

    phi: float
    psi: float
    theta: float
    inverse_penalty: float


def read_gamed(path: Path) -> Gamed:
    """Read df_gamed.csv as the library publishes it; preferences in it are probabilities."""
    table = pd.read_csv(path)
    prompts = table.drop_duplicates("index").sort_values("index")
    return Gamed(
        np.tanh(table["std_delta_len"].to_numpy(float)),
        table["instruction_difficulty"].to_numpy(float),
        table["preference"].to_numpy(float),
        prompts["instruction_difficulty"].to_numpy(float),
    )


def fit(preference: Array, reference_length: Array, model_length: Array, gamed: Gamed) -> Fit:
    """The library's fit for one run: preferences in [1, 2] and lengths in characters, [prompts], in benchmark order.

    liblinear and the order of rows are part of the definition: it stops early, an exact solver differs by up to 0.003.
    """
    features, target, weight = _rows(preference, reference_length, model_length, gamed)
    folds = list(GroupKFold(5).split(features, groups=np.arange(len(features))))
    scores = [np.mean([_held_out(features, target, weight, c, *fold) for fold in folds]) for c in PENALTIES]
    chosen = float(PENALTIES[int(np.argmax(scores))])
    phi, psi, theta = _fitted(features, target, weight, chosen).coef_[0]
    return Fit(float(phi), float(psi), float(theta), chosen)


def length_controlled(found: Fit, gamed: Gamed) -> float:
    """The length-controlled win rate of a fit, in percent."""
    return float(100 * _sigmoid(found.theta + found.psi * gamed.prompt_difficulty).mean())


class LengthControlled:
    """The length-controlled win rate as a metric that can be resampled: preferences and lengths [seeds, prompts].

    A resampling changes the coefficients by one Newton step of the same penalised likelihood from the full fit. The
    score needs them to first order only (the error of one step is of second order in the resampling noise, 1/prompts);
    a test holds it against exact refits. C and the signs of the coefficients stay; a coefficient that the penalty
    set to 0 stays 0.
    """

    def __init__(self, preference: Array, reference_length: Array, model_length: Array, gamed: Gamed) -> None:
        runs = list(zip(preference, reference_length, model_length, strict=True))
        self.gamed = gamed
        self.fits = [fit(*run, gamed) for run in runs]
        self._rows = [_rows(*run, gamed) for run in runs]
        self.seeds, self.prompts = preference.shape

    def scores(self, weights: Array) -> Array:
        columns = [self._resampled(found, rows, weights) for found, rows in zip(self.fits, self._rows, strict=True)]
        return np.stack(columns, axis=-1)

    def _resampled(self, found: Fit, rows: tuple[Array, Array, Array], weights: Array) -> Array:
        features, target, weight = rows
        start = np.array([found.phi, found.psi, found.theta])
        active = start != 0
        x = features[:, active]
        q = _sigmoid(features @ start)
        # Per row: gradient (q - p) x and Hessian q (1 - q) x x^T of the log-loss; gamed rows keep their weight.
        slope = found.inverse_penalty * (weight * (q - target))[:, None] * x
        curve = found.inverse_penalty * (weight * q * (1 - q))[:, None, None] * (x[:, :, None] * x[:, None, :])
        own = len(features) - self.prompts
        gradient = slope[:own].sum(0) + weights @ slope[own:] + np.sign(start[active])
        # The full fit's own gradient is not quite 0 (liblinear stops early): a step must come from resampling alone.
        gradient -= slope.sum(0) + np.sign(start[active])
        hessian = curve[:own].sum(0) + np.tensordot(weights, curve[own:], axes=1)
        moved = np.tile(start, (len(weights), 1))
        moved[:, active] -= np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        moved = np.where(np.sign(moved) == np.sign(start), moved, 0.0)
        won = _sigmoid(moved[:, 2:3] + moved[:, 1:2] * self.gamed.prompt_difficulty)
        return 100 * (weights * won).sum(-1) / weights.sum(-1)


def _rows(preference: Array, reference_length: Array, model_length: Array, gamed: Gamed) -> tuple[Array, Array, Array]:
    """Features (length, difficulty, not gamed), soft labels and weights: the gamed rows first, as upstream has them."""
    delta = reference_length - model_length
    spread = delta.std(ddof=1)
    scaled = np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)
    own = np.column_stack([scaled, gamed.prompt_difficulty, np.ones_like(scaled)])
    old = np.column_stack([gamed.length, gamed.difficulty, np.zeros_like(gamed.length)])
    wins = np.where(preference == 0, 1.5, preference) - 1
    weight = np.concatenate([np.full(len(old), GAMED_WEIGHT), np.ones(len(own))])
    return np.concatenate([old, own]), np.concatenate([gamed.preference, wins]), weight


def _fitted(features: Array, target: Array, weight: Array, inverse_penalty: float) -> LogisticRegression:
    model = LogisticRegression(
        C=inverse_penalty, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123
    )
    labels = np.repeat([1, 0], len(features))  # soft labels: every row twice, once as a win and once as a loss
    weights = np.concatenate([weight * target, weight * (1 - target)])
    return model.fit(np.concatenate([features, features]), labels, weights)


def _held_out(features: Array, target: Array, weight: Array, c: float, train: Array, test: Array) -> float:
    model = _fitted(features[train], target[train], weight[train], c)
    q = model.predict_proba(features[test])[:, 1].clip(1e-15, 1 - 1e-15)
    p = target[test]
    return float(np.mean(weight[test] * (p * np.log(q) + (1 - p) * np.log(1 - q))))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
