"""Claims about the pairs themselves, decided by pairs.csv: what a training did to those that started right and wrong.

Intervals are over training seeds, by Student's t; the held-out pairs are the same in all of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focalpo.reporting.claim_verdict import OPEN, REFUTED, SUPPORTED, UNTESTED, Verdict, unmeasured
from focalpo.reporting.finding import short_label
from focalpo.reporting.pair_groups import PairGroups
from focalpo.reporting.published import Published
from focalpo.scoring.differences import Difference, student_difference


@dataclass(frozen=True, slots=True)
class Found:
    """A mean over seeds in a setting."""

    setting: str
    mean: Difference
    seeds: int

    def text(self, labels: Mapping[str, str], signed: bool) -> str:
        sign = "+" if signed else ""
        value, low, high = (format(number, f"{sign}.1f") for number in (self.mean.value, self.mean.low, self.mean.high))
        return f"{labels[self.setting]} {value} [{low}, {high}]"


def over_seeds(setting: str, values: Sequence[float]) -> Found | None:
    """The mean with its 95% interval; None with fewer than two seeds, from which no spread can be told."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Found(setting, student_difference(float(np.mean(values)), error, len(values) - 1), len(values))


def of_row(table: Published, row: str, quantity: str) -> list[Found]:
    """A quantity of a row's trainings in each setting."""
    return _each(table, lambda groups: [getattr(each, quantity) for each in groups if each.row == row])


def row_minus(table: Published, row: str, other: str, quantity: str) -> list[Found]:
    """The same of one row minus another, paired by seed."""

    def paired(groups: Sequence[PairGroups]) -> list[float]:
        ours, theirs = ({g.seed: getattr(g, quantity) for g in groups if g.row == name} for name in (row, other))
        return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]

    return _each(table, paired)


def fixed_rarely(table: Published, row: str, rarely: float) -> Verdict:
    """Supported where in every setting fewer than `rarely` per cent of the misranked pairs are corrected, with the
    whole interval; not supported where the whole interval is above in one; else inconclusive.
    """
    found = of_row(table, row, "fixed")
    if not found:
        return _untested(table)
    lacking = unmeasured(table.results, [each.setting for each in found])
    if all(each.mean.high < rarely for each in found) and not lacking:
        word = SUPPORTED
    else:
        word = REFUTED if any(each.mean.low > rarely for each in found) else OPEN
    shares = ", ".join(each.text(_labels(table), signed=False) for each in found)
    why = (
        f"per cent corrected of the held-out pairs that started wrong: {shares}{lacking}; asked for is less than "
        f"{rarely:g}"
    )
    return Verdict(word, why, max(each.mean.high - each.mean.low for each in found) / 2, _source(table))


def margins_of_right(table: Published, row: str, other: str) -> Verdict:
    """Whether the margins of pairs that started right end wider than with the other row, which has the same beta."""
    return _larger(table, row, other, "margin_right", "nats", "mean margin of the pairs that started right")


def ended_right(table: Published, row: str, other: str) -> Verdict:
    """Whether more pairs end ranked right than with the other row."""
    return _larger(table, row, other, "ended_right", "points", "share of the pairs ranked right at the end")


def _larger(table: Published, row: str, other: str, quantity: str, unit: str, what: str) -> Verdict:
    """Supported: the whole interval is above 0 in every setting. Not supported: below in one. Else inconclusive."""
    found = row_minus(table, row, other, quantity)
    if not found:
        return _untested(table)
    lacking = unmeasured(table.results, [each.setting for each in found])
    if all(each.mean.low > 0 for each in found) and not lacking:
        word = SUPPORTED
    else:
        word = REFUTED if any(each.mean.high < 0 for each in found) else OPEN
    differences = ", ".join(each.text(_labels(table), signed=True) for each in found)
    labels = {each.name: each.label for rows in table.results.rows.values() for each in rows}
    why = f"{labels.get(row, row)} minus {labels.get(other, other)}, {what}: {differences} {unit}{lacking}"
    return Verdict(word, why, max(each.mean.detectable(1) for each in found), _source(table), unit)


def _each(table: Published, values: Callable[[Sequence[PairGroups]], list[float]]) -> list[Found]:
    groups = {setting: [each for each in table.pairs if each.setting == setting] for setting in table.results.rows}
    found = [over_seeds(setting, values(each)) for setting, each in groups.items()]
    return [each for each in found if each is not None]


def _labels(table: Published) -> dict[str, str]:
    return {setting: short_label(table.results, setting) for setting in table.results.rows}


def _untested(table: Published) -> Verdict:
    said = "has no two seeds of it" if table.pairs else "is not published: publish the table's report again"
    return Verdict(UNTESTED, f"{_source(table)} {said}")


def _source(table: Published) -> str:
    return f"docs/{table.name}/pairs.csv"
