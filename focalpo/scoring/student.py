"""Student's t distribution: P(|T| > t) and its quantiles, for any real degrees of freedom. numpy only.

With t = sqrt(df) tan(a), the density is proportional to cos(a)^(df - 1) on (-pi/2, pi/2).
"""

import math

import numpy as np

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
REACH = 12  # standard deviations beyond t that are integrated: the rest is below exp(-72) of the whole


def two_sided(t: float, df: float) -> float:
    """P(|T| > |t|), to about twelve digits."""
    start = math.atan(abs(t) / math.sqrt(df))
    half = (min(math.pi / 2, start + REACH / math.sqrt(df)) - start) / 2
    tail = half * float(WEIGHTS @ np.cos(start + half * (NODES + 1)) ** (df - 1))
    whole = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(df / 2) - math.lgamma((df + 1) / 2))
    return min(1.0, tail / whole)


def below(t: float, df: float) -> float:
    """P(T < t)."""
    tail = two_sided(t, df) / 2
    return 1 - tail if t > 0 else tail


def quantile(p_two_sided: float, df: float) -> float:
    """The t with P(|T| > t) = `p_two_sided`, by bisection of its angle."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        beyond = two_sided(math.sqrt(df) * math.tan(middle), df)
        low, high = (middle, high) if beyond > p_two_sided else (low, middle)
    return math.sqrt(df) * math.tan(low)
