"""AlpacaEval's length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475), equal to every printed digit.

    P(model wins prompt i) = sigmoid(theta + phi * tanh(d_i / sd(d)) + psi * difficulty_i)
    d = len(reference) - len(model), in characters
    LC = 100 * mean_i sigmoid(theta + psi * difficulty_i)                                    length term set to 0

Fitted by L1-penalised logistic regression on soft labels, together with "gamed" rows (the reference, rewritten longer
and shorter, against itself), which teach phi the effect of length alone on the judge and have no theta.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from focalpo.scoring.stats import Array, sigmoid, wins_of
from focalpo.stages.reading import check_file, first_line

GAMED_WEIGHT = 0.2 / 2  # a fifth of the weight of the model's own rows, split over two gamed models
PENALTIES = np.logspace(-4, 4, 10)
NEWTON_STEPS = 3
SWEEPS = 25
BLOCK = 256  # rounds computed together: their [rounds, rows] arrays stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Gamed:
    """The gamed rows, [rows], and the difficulty of every prompt, [prompts], in benchmark order."""

    length: Array
    difficulty: Array
    preference: Array
    prompt_difficulty: Array


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients (phi, psi, theta) and the inverse penalty C chosen by cross-validation."""

    phi: float
    psi: float
    theta: float
    inverse_penalty: float


def read_gamed(path: Path) -> Gamed:
    """Read df_gamed.csv as the library publishes it; its preferences are probabilities.

    Raises:
        ValueError: if it cannot be read as a table, or lacks a column of finite numbers.
    """
    check_file(path)
    names = ("index", "std_delta_len", "instruction_difficulty", "preference")
    try:
        table = pd.read_csv(path)
        numbers = {name: table[name].to_numpy(float) for name in names}
    except (OSError, KeyError, ValueError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{path} is no df_gamed.csv ({reason}); use the benchmark's own file") from error
    broken = [name for name, column in numbers.items() if not len(column) or not np.isfinite(column).all()]
    if broken:
        raise ValueError(f"{path}: column {broken[0]} has rows without a number; use the benchmark's own file")
    prompts = table.drop_duplicates("index").sort_values("index")
    return Gamed(
        np.tanh(numbers["std_delta_len"]),
        numbers["instruction_difficulty"],
        numbers["preference"],
        prompts["instruction_difficulty"].to_numpy(float),
    )


def fit(preference: Array, reference_length: Array, model_length: Array, gamed: Gamed) -> Fit:
    """Fit one run as the library does: preferences in [1, 2], lengths in characters, [prompts], in benchmark order.

    liblinear and the row order are part of the definition: liblinear stops early, and an exact solver differs by up to
    0.003. A preference may be NaN: as in the library, its row counts in sd(d) and in the score, but not in the fit.

    Raises:
        ValueError: if there are not as many rows as difficulties, or every preference is NaN.
    """
    if len(preference) != len(gamed.prompt_difficulty):
        raise ValueError(
            f"{len(preference)} judged rows for {len(gamed.prompt_difficulty)} difficulties; pass the rows of the "
            "whole benchmark in its order, or the difficulties of the rows"
        )
    if np.isnan(preference).all():
        raise ValueError("no row has a preference; judge the answers first")
    rows = _rows(preference, reference_length, model_length, gamed)
    features, target, weight = (part[~np.isnan(rows[1])] for part in rows)
    folds = list(GroupKFold(5).split(features, groups=np.arange(len(features))))
    scores = [np.mean([_held_out(features, target, weight, c, *fold) for fold in folds]) for c in PENALTIES]
    chosen = float(PENALTIES[int(np.argmax(scores))])
    phi, psi, theta = _fitted(features, target, weight, chosen).coef_[0]
    return Fit(float(phi), float(psi), float(theta), chosen)


def library_error(found: Fit, gamed: Gamed) -> float:
    """The standard error of LC as the library prints it, in points.

    It is the spread of the predictions over prompts: how much prompts differ in difficulty, not how certain the fit is.
    """
    won = sigmoid(found.theta + found.psi * gamed.prompt_difficulty)
    return float(100 * won.std(ddof=1) / np.sqrt(len(won)))


def length_controlled(found: Fit, gamed: Gamed) -> float:
    """The length-controlled win rate of a fit, in percent."""
    return float(100 * sigmoid(found.theta + found.psi * gamed.prompt_difficulty).mean())


class LengthControlled:
    """The length-controlled win rate as a metric that can be resampled: preferences and lengths [seeds, prompts].

    Every round is refitted: |b|_1 + C * log-loss over b = (phi, psi, theta) is convex with three unknowns, so three
    proximal Newton steps from the full fit end within 0.0001 points of the optimum (one step ends up to 0.6 away).
    liblinear itself stops up to 0.01 points before the optimum; the spread over rounds is about 1 point. Kept from the
    full fit: C, whose choice is not part of the spread, and the gamed rows, which are constants of the benchmark like
    the difficulties. [rounds, rows] arrays are float32, which costs less than 0.0001 points.
    """

    def __init__(self, preference: Array, reference_length: Array, model_length: Array, gamed: Gamed) -> None:
        runs = list(zip(preference, reference_length, model_length, strict=True))
        self.gamed = gamed
        self.fits = [fit(*run, gamed) for run in runs]
        self._judged = ~np.isnan(preference)
        self._wins = np.where(self._judged, wins_of(preference), 0.0)
        self._delta = reference_length - model_length
        self.seeds, self.prompts = preference.shape

    def scores(self, weights: Array) -> Array:
        own = np.column_stack([self.gamed.prompt_difficulty, np.ones(self.prompts)]).astype(np.float32)
        counts = weights.astype(np.float32)
        columns = []
        for seed, found in enumerate(self.fits):
            coefficients = self._refitted(seed, found, counts, own)
            won = sigmoid(coefficients[:, 1:].astype(np.float32) @ own.T)
            columns.append(100 * (counts * won).sum(-1, dtype=float) / weights.sum(-1))
        return np.stack(columns, axis=-1)

    def left_out(self) -> Array:
        """The score without each prompt, [seeds, prompts], refitted as in `scores`.

        The others weigh as much as all prompts did: the penalty and the gamed rows keep their share, as in a round.
        """
        return self.scores((1 - np.eye(self.prompts)) * self.prompts / (self.prompts - 1)).T

    def _refitted(self, seed: int, found: Fit, counts: NDArray, own: NDArray) -> Array:
        """Coefficients of every round, [rounds, 3]."""
        blocks = [slice(first, first + BLOCK) for first in range(0, len(counts), BLOCK)]
        lengths = [_standardised(self._delta[seed], counts[block]) for block in blocks]
        wins, judged = self._wins[seed].astype(np.float32), self._judged[seed].astype(np.float32)
        coefficients = np.tile([found.phi, found.psi, found.theta], (len(counts), 1))
        gradient, hessian = np.empty((len(counts), 3)), np.empty((len(counts), 3, 3))
        for _ in range(NEWTON_STEPS):
            for block, t in zip(blocks, lengths, strict=True):
                b = coefficients[block].astype(np.float32)
                gradient[block], hessian[block] = _own_terms(b, t, own, wins, counts[block] * judged)
                gamed_gradient, gamed_hessian = _gamed_terms(b[:, :2], self.gamed)
                gradient[block, :2] += gamed_gradient
                hessian[block, :2, :2] += gamed_hessian
            c = found.inverse_penalty
            coefficients = _minimised(coefficients, c * gradient, c * hessian)
        return coefficients


def _standardised(delta: Array, counts: NDArray) -> NDArray:
    """tanh(d / sd(d)) with each round's own standard deviation, [rounds, prompts]; all 0 if lengths do not vary."""
    total = counts.sum(1, dtype=float)
    centred = delta - delta.mean()
    square = counts @ centred**2 - (counts @ centred) ** 2 / total
    spread = np.sqrt(np.maximum(square, 0) / (total - 1))
    return np.tanh(np.outer(np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0), delta).astype(np.float32))


def _own_terms(b: NDArray, t: NDArray, own: NDArray, wins: NDArray, counts: NDArray) -> tuple[Array, Array]:
    """Gradient sum w (q - p) x, [rounds, 3], and Hessian sum w q (1 - q) x x^T, [rounds, 3, 3], of the log-loss."""
    q = sigmoid(b[:, :1] * t + b[:, 1:] @ own.T)
    slope = counts * (q - wins)
    curve = counts * (q - q * q)
    curve_t = curve * t
    hessian = np.empty((len(b), 3, 3))
    hessian[:, 0, 0] = np.einsum("rp,rp->r", curve_t, t)
    hessian[:, 0, 1:] = hessian[:, 1:, 0] = curve_t @ own
    hessian[:, 1:, 1:] = (curve @ _products(own)).reshape(-1, 2, 2)
    return np.column_stack([np.einsum("rp,rp->r", slope, t), slope @ own]).astype(float), hessian


def _gamed_terms(b: NDArray, gamed: Gamed) -> tuple[Array, Array]:
    """Gradient [rounds, 2] and Hessian [rounds, 2, 2] of the gamed rows, which have no theta."""
    x = np.column_stack([gamed.length, gamed.difficulty]).astype(np.float32)
    q = sigmoid(b @ x.T)
    slope = q - gamed.preference.astype(np.float32)
    hessian = ((q - q * q) @ _products(x)).reshape(-1, 2, 2)
    return GAMED_WEIGHT * (slope @ x).astype(float), GAMED_WEIGHT * hessian.astype(float)


def _products(x: NDArray) -> NDArray:
    """x x^T of every row, flattened: [rows, features^2]."""
    return np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)


def _minimised(b: Array, gradient: Array, hessian: Array) -> Array:
    """argmin over x of gradient (x - b) + (x - b) hessian (x - b) / 2 + |x|_1 by coordinate descent, [rounds, 3]."""
    # Rounds on the last axis, so that every operation runs over contiguous memory.
    start, g, h = (np.ascontiguousarray(np.moveaxis(array, 0, -1)) for array in (b, gradient, hessian))
    x = start.copy()
    for _ in range(SWEEPS):
        for j in range(3):
            pull = h[j, j] * x[j] - g[j] - ((x - start) * h[j]).sum(0)
            x[j] = np.sign(pull) * np.maximum(np.abs(pull) - 1, 0) / h[j, j]
    return np.ascontiguousarray(x.T)


def _rows(preference: Array, reference_length: Array, model_length: Array, gamed: Gamed) -> tuple[Array, Array, Array]:
    """Features (length, difficulty, not gamed), soft labels and weights; the gamed rows come first, as upstream."""
    delta = reference_length - model_length
    spread = delta.std(ddof=1)
    scaled = np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)
    own = np.column_stack([scaled, gamed.prompt_difficulty, np.ones_like(scaled)])
    gamed_rows = np.column_stack([gamed.length, gamed.difficulty, np.zeros_like(gamed.length)])
    weight = np.concatenate([np.full(len(gamed_rows), GAMED_WEIGHT), np.ones(len(own))])
    return np.concatenate([gamed_rows, own]), np.concatenate([gamed.preference, wins_of(preference)]), weight


def _fitted(features: Array, target: Array, weight: Array, inverse_penalty: float) -> LogisticRegression:
    model = LogisticRegression(
        C=inverse_penalty, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123
    )
    labels = np.repeat([1, 0], len(features))  # soft labels: every row once as a win and once as a loss
    weights = np.concatenate([weight * target, weight * (1 - target)])
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):  # `fit` has checked them
        return model.fit(np.concatenate([features, features]), labels, weights)


def _held_out(features: Array, target: Array, weight: Array, c: float, train: Array, test: Array) -> float:
    model = _fitted(features[train], target[train], weight[train], c)
    q = sigmoid(features[test] @ model.coef_[0]).clip(1e-15, 1 - 1e-15)
    p = target[test]
    return float(np.mean(weight[test] * (p * np.log(q) + (1 - p) * np.log(1 - q))))
