"""Differences between two rows of the table, on the same prompts: intervals, tests and what they can detect.

    metric.left_out() --> pseudo-values [seeds, prompts] --> standard error and its degrees of freedom --> Student's t

The jackknife's pseudo-value of a prompt is P * score - (P - 1) * score without the prompt (Efron and Stein 1981); a
score that is a mean has its terms as pseudo-values. Prompts and training seeds are crossed random effects: the
variance of the means over seeds and that of the means over prompts add up, with degrees of freedom by Satterthwaite
(1946), which is the test by min F' of Clark (1973). Both hold the noise of single answers, so that it counts twice:
without it, too little is left of what few seeds show of their own variance, and p-values of a thousandth come five to
ten times too often. Nothing is drawn: p-values have no Monte Carlo error, which a correction for many differences would
multiply.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from focalpo.scoring.stats import Array, Metric, value, whole_weights
from focalpo.scoring.student import below, quantile, two_sided

LEVEL = 0.05
POWER_Z = 0.842  # 80% of a normal distribution lie below


@dataclass(frozen=True, slots=True)
class Difference:
    """One row's score minus another's, in points, with its 95% interval and the two-sided p-value of "no difference".

    `error` is its standard error, `df` the degrees of freedom of that error.
    """

    value: float
    low: float
    high: float
    p: float
    error: float
    df: float

    def equivalence(self, margin: float) -> float:
        """The p-value of "they differ by `margin` points or more": the larger of two one-sided tests (Schuirmann 1987).

        Below .05 the difference is smaller than the margin in either direction.
        """
        if self.error == 0:
            return float(abs(self.value) >= margin)
        return below((abs(self.value) - margin) / self.error, self.df)

    def detectable(self, tests: int) -> float:
        """The smallest true difference that shows 80 times in 100 at p < .05 after correction for so many tests."""
        return (quantile(LEVEL / tests, self.df) + POWER_Z) * self.error


def student_difference(found: float, error: float, df: float) -> Difference:
    """The difference `found` with Student's t interval and p-value."""
    half = quantile(LEVEL, df) * error
    p = two_sided(found / error, df) if error else float(found == 0)
    return Difference(found, found - half, found + half, p, error, df)


def paired_difference(a: Metric, b: Metric, same_seeds: bool) -> Difference:
    """The difference a - b on the same prompts.

    Args:
        same_seeds: seed i of both shares data order and sampling, so that seeds are paired as well.
    """
    assert a.prompts == b.prompts and (not same_seeds or a.seeds == b.seeds)
    first, second = pseudo_values(a), pseudo_values(b)
    if same_seeds:
        error, df = _error(first.mean(0) - second.mean(0), [first - second])
    else:
        error, df = _error(first.mean(0) - second.mean(0), [first, second])
    return student_difference(value(a) - value(b), error, df)


def pseudo_values(metric: Metric) -> Array:
    """The jackknife's pseudo-values over prompts, in points, [seeds, prompts]."""
    whole = metric.scores(whole_weights(metric.prompts)).T
    return metric.prompts * whole - (metric.prompts - 1) * metric.left_out()


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for testing several differences at once (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return corrected


def _error(prompts: Array, runs: Sequence[Array]) -> tuple[float, float]:
    """Standard error and degrees of freedom, from the means over seeds, [prompts], and runs [seeds, prompts]."""
    terms = [(prompts.var(ddof=1) / len(prompts), len(prompts) - 1), *_seed_terms(runs)]
    total = sum(variance for variance, _ in terms)
    if total == 0:
        return 0.0, float(len(prompts) - 1)
    return math.sqrt(total), total**2 / sum(variance**2 / df for variance, df in terms)


def _seed_terms(runs: Sequence[Array]) -> Iterator[tuple[float, int]]:
    """The variance of a mean over training seeds, and its degrees of freedom, per group of seeds."""
    for found in runs:
        seeds = len(found)
        if seeds > 1:
            yield float(found.mean(1).var(ddof=1) / seeds), seeds - 1
