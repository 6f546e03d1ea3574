"""How large a true difference a comparison detects: simulated experiments in, a share of them or a difference out."""

from collections.abc import Callable

import numpy as np

from focalpo.scoring.differences import LEVEL
from focalpo.scoring.stats import Array
from focalpo.scoring.student import quantile

POWER = 0.8
HALVINGS = 10


def detected(terms: Array) -> float:
    """The share of experiments whose mean differs from 0 at p < .05, from their prompts' terms [experiments, prompts].

    For one seed this is the test of differences.py: the terms are the jackknife's pseudo-values, up to terms of second
    order.
    """
    prompts = terms.shape[1]
    errors = terms.std(1, ddof=1) / np.sqrt(prompts)
    return float((np.abs(terms.mean(1)) > quantile(LEVEL, prompts - 1) * errors).mean())


def smallest_detected(share_at: Callable[[float], float], most: float) -> float:
    """The smallest value at which `share_at`, which increases, reaches the power of 80%; by bisection up to `most`.

    Raises:
        ValueError: when it does not reach it there.
    """
    if share_at(most) < POWER:
        raise ValueError(f"not even a difference of {most:g} is detected {POWER:.0%} of the time; simulate more calls")
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if share_at(middle) >= POWER else (middle, high)
    return high
