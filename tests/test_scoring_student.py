"""Student's t distribution against closed forms and printed quantiles."""

import math

import pytest

from focalpo.scoring.student import below, quantile, two_sided


@pytest.mark.parametrize("t", [0.0, 0.5, 2.0, 10.0, 200.0])
def test_one_two_and_many_degrees_of_freedom_have_closed_forms(t: float) -> None:
    assert two_sided(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-9)
    assert two_sided(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t**2), rel=1e-7)
    if t <= 10:
        assert two_sided(t, 1e9) == pytest.approx(math.erfc(t / math.sqrt(2)), rel=1e-4)


def test_printed_quantiles() -> None:
    """Of the tables in textbooks."""
    for df, t in ((1, 12.706), (4, 2.776), (10, 2.228), (120, 1.980)):
        assert quantile(0.05, df) == pytest.approx(t, abs=5e-4)
    assert quantile(0.001, 30) == pytest.approx(3.646, abs=5e-4)


def test_one_side() -> None:
    assert below(0.0, 5) == pytest.approx(0.5)
    assert below(-2.015, 5) == pytest.approx(0.05, abs=1e-4) and below(2.015, 5) == pytest.approx(0.95, abs=1e-4)
