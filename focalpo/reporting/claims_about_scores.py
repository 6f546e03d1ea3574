"""Claims about benchmarks, decided by the paired differences of a table: is FocalPO ahead, and with one gamma?"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.claim_verdict import OPEN, REFUTED, SUPPORTED, UNTESTED, Verdict, unmeasured
from focalpo.reporting.finding import LEVEL, short_label
from focalpo.reporting.published import Published
from focalpo.scoring.differences import Difference
from focalpo.stages.metrics import column_of


@dataclass(frozen=True, slots=True)
class Score:
    """One difference of a row to the row that the table compares with, and where it stands."""

    setting: str
    column: str
    title: str
    cell: Cell
    difference: Difference

    @property
    def sign(self) -> int:
        """1 where the row is significantly ahead after correction, -1 behind, 0 neither."""
        return 0 if not self.cell.p_holm < LEVEL else 1 if self.difference.value > 0 else -1

    def __str__(self) -> str:
        found = self.difference
        return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}] ({self.title})"


def scores_of(results: Results, row: str) -> list[Score]:
    """The row's differences in all settings; lm-eval's tasks, which training does not aim at, are not counted."""
    return [
        Score(setting, column, f"{short_label(results, setting)}, {column_of(column).title}", cell, cell.difference)
        for setting, rows in results.rows.items()
        for found in rows
        if found.name == row
        for column, cell in found.cells.items()
        if cell.difference is not None and column_of(column).stage != "capability"
    ]


def equal(scores: Iterable[Score]) -> int:
    """In how many scores the difference is shown to be smaller than the margin."""
    return sum(score.cell.p_equal < LEVEL for score in scores)


def detectable(scores: Iterable[Score]) -> float:
    """The difference that would show 4 times in 5 in every score; NaN where the table does not have it."""
    return max((score.cell.detectable for score in scores), default=math.nan)


def ahead(table: Published, row: str) -> Verdict:
    """Supported: significantly ahead in a score of every setting, behind in none. Not supported: behind in one and
    ahead in none, or shown to be within the margin in all. Else inconclusive.
    """
    results, scores = table.results, scores_of(table.results, row)
    if not scores:
        why = f"the table has no difference of {row} to {results.compare_with}"
        return Verdict(UNTESTED, why, source=table.source)
    up, down = ([score for score in scores if score.sign == sign] for sign in (1, -1))
    largest = max(scores, key=lambda score: abs(score.difference.value))
    why = (
        f"significantly ahead of {results.compare_label} in {len(up)} and behind in {len(down)} of {len(scores)} "
        f"scores; the largest difference is {largest}"
    )
    if not all(math.isnan(score.cell.p_equal) for score in scores):
        why += f"; within ±{results.margin:g} points in {equal(scores)} of {len(scores)}"
    lacking = unmeasured(results, [score.setting for score in scores])
    why += lacking
    if not down and not lacking and {score.setting for score in up} == {score.setting for score in scores}:
        word = SUPPORTED
    elif not up and (down or (equal(scores) == len(scores) and not lacking)):
        word = REFUTED
    else:
        word = OPEN
    return Verdict(word, why, detectable(scores), table.source)


def ahead_with_one_gamma(table: Published, row: str) -> Verdict:
    """Supported: some gamma of the table is ahead in every setting, of two or more. Not supported: the fixed one is not
    supported, and no gamma is ahead anywhere. Else inconclusive.
    """
    results = table.results
    names = [name for name in _names(results) if name == row or (name.startswith("gamma_") and name != "gamma_0")]
    found = {name: ahead(table, name) for name in names}
    fixed = found.get(row, Verdict(UNTESTED, f"the table has no row {row}"))
    better = [name for name, verdict in found.items() if verdict.word == SUPPORTED]
    anywhere = [name for name in names if any(score.sign > 0 for score in scores_of(results, name))]
    why = (
        f"of {len(names)} gammas, {len(better)} are ahead of {results.compare_label} in every setting and "
        f"{len(anywhere)} in any score; the fixed one: {fixed.why}"
    )
    if fixed.word == UNTESTED:
        return fixed
    if better and len(results.rows) < 2:
        return Verdict(OPEN, f"{why}; but the table has one setting only", source=table.source)
    word = SUPPORTED if better else REFUTED if fixed.word == REFUTED and not anywhere else OPEN
    return Verdict(word, why, detectable(scores_of(results, row)), table.source)


def ahead_of_all(table: Published, row: str, variants: Sequence[str]) -> Verdict:
    """Supported: in every score the row's interval lies above that of every variant. Not supported: below one of them
    somewhere, above none. Else inconclusive: what would have shown is the sum of the two half-widths.
    """
    above = below = total = 0
    ranks, widest = [], 0.0
    for rows in table.results.rows.values():
        by_name = {each.name: each for each in rows}
        for column, cell in (by_name[row].cells if row in by_name else {}).items():
            others = [by_name[name].cells[column] for name in variants if _has(by_name.get(name), column)]
            if not others or column_of(column).stage == "capability":
                continue
            total += len(others)
            above += sum(cell.low > other.high for other in others)
            below += sum(cell.high < other.low for other in others)
            ranks.append(f"{1 + sum(other.value > cell.value for other in others)} of {1 + len(others)}")
            widest = max(widest, *((cell.high - cell.low + other.high - other.low) / 2 for other in others))
    if not total:
        return Verdict(UNTESTED, f"the table has none of the rows {', '.join(variants)}", source=table.source)
    why = (
        f"of {total} comparisons its interval lies above the variant's in {above} and below in {below}; its rank by "
        f"value in each score is {', '.join(ranks)}"
    )
    word = SUPPORTED if above == total else REFUTED if below and not above else OPEN
    return Verdict(word, why, widest, table.source)


def _has(row: RowResult | None, column: str) -> bool:
    return row is not None and column in row.cells


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(row.name for rows in results.rows.values() for row in rows))
