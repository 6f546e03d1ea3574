"""What is known about one number of the table, in words: the lines of the page's dialog."""

import math

from focalpo.reporting.blocks import p_text, worst_text
from focalpo.reporting.cells import Cell, Results, RowResult


def facts(results: Results, row: RowResult, column: str) -> list[tuple[str, str]]:
    """What each line says and its number, most important first; what is not known has no line, but the paper's."""
    cell = row.cells[column]
    lines = [
        ("score", f"{cell.value:.2f}"),
        ("95% interval", f"[{cell.low:.2f}, {cell.high:.2f}]"),
        *_difference(cell, results),
        ("standard error", f"{cell.se:.2f}"),
        ("standard error by the benchmark's own code", f"{cell.library_se:.2f}"),
        ("standard deviation over training seeds", NAN if cell.seed_sd is None else f"{cell.seed_sd:.2f}"),
        ("training seeds", str(cell.seeds)),
        ("prompts", str(cell.prompts)),
        *([("verdicts that the judge did not give, and the score if all were lost or won", worst_text(cell))]
          if cell.missing else []),
        ("the paper's number", _paper(cell, row.paper.get(column))),
    ]  # fmt: skip
    return [(name, text) for name, text in lines if text != NAN]


NAN = f"{math.nan:.2f}"


def _difference(cell: Cell, results: Results) -> list[tuple[str, str]]:
    found = cell.difference
    if found is None:
        return []
    lines = [
        (f"minus {results.compare_label}", f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"),
        ("p, if there were no difference", f"{p_text(found.p)}"),
        (f"the same, corrected for all {results.compared} differences of the table (Holm)", p_text(cell.p_holm)),
        ("true difference that would be significant 4 times in 5", f"{cell.detectable:.2f}"),
    ]
    if not math.isnan(cell.p_equal):
        lines.append((f"p, if they differed by {results.margin:g} points or more", p_text(cell.p_equal)))
    return lines


def _paper(cell: Cell, paper: float | None) -> str:
    if paper is None:
        return "not comparable: none was published under this protocol"
    return f"{paper:.1f}" + (f"; ours: {cell.verdict}" if cell.verdict else "")
