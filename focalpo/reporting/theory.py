"""What FocalPO changes, in closed form: losses and gradient weights as functions of the margin. numpy, no model.

u = beta D,  p = sig(u),  weight w = -dL/du: how strongly a pair pushes its own margin. DPO: w = 1 - p.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_sigmoid(u: Array) -> Array:
    """log sig(u), finite for any u."""
    return -np.logaddexp(0.0, -u)


def focalpo_loss(u: Array, gamma: float) -> Array:
    """FocalPO's loss, -p^gamma log p; with gamma 0 it is DPO's."""
    logp = log_sigmoid(u)
    return -np.exp(gamma * logp) * logp


def focalpo_weight(u: Array, gamma: float, detach_factor: bool = False) -> Array:
    """FocalPO's weight: p^gamma (1-p) (1 + gamma ln p), or p^gamma (1-p) when the factor is detached (derived)."""
    logp = log_sigmoid(u)
    weight = np.exp(gamma * logp + log_sigmoid(-u))
    return weight if detach_factor else weight * (1 + gamma * logp)


def focal_weight(u: Array, gamma: float) -> Array:
    """Weight of focal loss (the foil), -(1-p)^gamma log p: w = (1-p)^gamma [(1-p) - gamma p ln p] (derived)."""
    logp, log_rest = log_sigmoid(u), log_sigmoid(-u)
    return np.exp(gamma * log_rest) * (np.exp(log_rest) - gamma * np.exp(logp) * logp)


def sign_flip(gamma: float) -> float:
    """p = e^(-1/gamma), below which the differentiated gradient pushes a pair further in the wrong direction."""
    return float(np.exp(-1 / gamma))


def expected_loss(u: Array, gamma: float, wrong_labels: float) -> Array:
    """Expected loss of a pair whose label is wrong with probability e = `wrong_labels`: (1-e) L(u) + e L(-u).

    Training stops at its finite minimum, if there is one. -p^gamma log p goes to 0 at both ends and never exceeds
    1/(gamma e), with Euler's e here, so for large gamma and few wrong labels there is none and all margins diverge.
    """
    return (1 - wrong_labels) * focalpo_loss(u, gamma) + wrong_labels * focalpo_loss(-u, gamma)


def best_margin(gamma: float, wrong_labels: float) -> float | None:
    """u at the finite minimum of the expected loss; None when there is none and margins diverge."""
    u = np.linspace(0.0, 40.0, 40_001)
    loss = expected_loss(u, gamma, wrong_labels)
    rising = np.flatnonzero(np.diff(loss) > 0)
    return float(u[rising[0]]) if len(rising) else None
