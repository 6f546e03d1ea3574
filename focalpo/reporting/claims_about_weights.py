"""Claims about the loss itself, decided by its derivative: no run can change them."""

import numpy as np

from focalpo.reporting.claim_verdict import ALGEBRA, REFUTED, SUPPORTED, Verdict
from focalpo.reporting.theory import Array, focalpo_weight

LOW, START, HIGH = 0.1, 0.5, 0.9
"""The belief p in the label of a pair ranked wrong, of any pair where training starts, and of one ranked right."""


def margin_of(p: float | Array) -> Array:
    """u = beta D at which sig(u) is p."""
    return np.log(p) - np.log1p(-np.asarray(p))


def weight_at(p: float, gamma: float) -> float:
    """FocalPO's weight at p with the factor differentiated; gamma 0 is DPO."""
    return float(focalpo_weight(margin_of(p), gamma))


def heaviest(gamma: float) -> float:
    """The p at which the weight is largest, to three digits."""
    p = np.linspace(0.001, 0.999, 999)
    return float(p[np.argmax(focalpo_weight(margin_of(p), gamma))])


def dpo_weight() -> Verdict:
    """Whether DPO's weight is larger where the model ranks a pair wrong."""
    low, high = weight_at(LOW, 0.0), weight_at(HIGH, 0.0)
    return _derived(low > high, f"its weight is 1 - p: {low:.2f} at p = {LOW}, {high:.2f} at p = {HIGH}")


def relative_weight(gamma: float) -> Verdict:
    """Whether FocalPO's weight over DPO's rises with p, from below 1."""
    p = np.linspace(0.01, 0.99, 99)
    ratio = focalpo_weight(margin_of(p), gamma) / focalpo_weight(margin_of(p), 0.0)
    low, start, high = (weight_at(p, gamma) / weight_at(p, 0.0) for p in (LOW, START, HIGH))
    return _derived(
        bool(np.all(np.diff(ratio) > 0) and ratio[0] < 1),
        f"at gamma {gamma:g} its weight over DPO's is p^gamma (1 + gamma ln p): {low:.2f} at p = {LOW}, {start:.2f} at "
        f"{START}, {high:.2f} at {HIGH}",
    )


def absolute_weight(gamma: float) -> Verdict:
    """Whether FocalPO's weight is larger where the model ranks a pair right."""
    low, high = weight_at(LOW, gamma), weight_at(HIGH, gamma)
    return _derived(
        high > low,
        f"at gamma {gamma:g} its weight is {low:.2f} at p = {LOW} and {high:.2f} at {HIGH}, largest at p = "
        f"{heaviest(gamma):.2f}: in the order of DPO's",
    )


def _derived(holds: bool, why: str) -> Verdict:
    return Verdict(SUPPORTED if holds else REFUTED, why, source=ALGEBRA)
