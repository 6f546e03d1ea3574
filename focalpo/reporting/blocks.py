"""The blocks below the table: differences with p-values, the uncertainty of each number, verdicts against the paper.

Results --> Block (title, header, rows of text) for each setting; every format prints the same words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.scoring.stats import ROUNDS
from focalpo.stages.metrics import COLUMNS, NONE

INTERVALS = (
    "In brackets: 95% bootstrap intervals; prompts are resampled (both games and all seeds of a prompt together), "
    "crossed with seeds where a row has several."
)
SCALE_NOTES = {
    "pocket": "Pocket scale: a 0.2M-parameter model in a world whose gold reward is known. It shows how the losses "
    "behave there, not how they rank on real models.",
    "one_gpu": "One-GPU scale: a small chat model and a judge of your own; do not compare it with the paper.",
    "paper": "The paper's judge is retired: compare numbers only under the same protocol hash.",
}
SHORT = {"ae2_lc": "LC", "ae2_wr": "WR", "arena_hard": "AH"}


@dataclass(frozen=True, slots=True)
class Block:
    """A small table; its title heads the first column."""

    title: str
    header: Sequence[str]
    body: Sequence[Sequence[str]]


def blocks(rows: Sequence[RowResult], results: Results) -> list[Block]:
    """The blocks of one setting, without those that have no rows."""
    candidates = [differences(rows, results), certainty(rows, results), verdicts(rows)]
    return [block for block in candidates if block.body]


def differences(rows: Sequence[RowResult], results: Results) -> Block:
    """Paired differences: every row minus the row that the table compares with, on the same prompts."""
    body = _body([row for row in rows if row.name != results.compare_with], _difference)
    return Block(f"minus {results.compare_label}, paired", list(COLUMNS.values()), body)


def certainty(rows: Sequence[RowResult], results: Results) -> Block:
    """For each number: its standard error, the library's own, the spread of seeds, the least detectable difference."""
    header = [f"{short} {what}" for short in SHORT.values() for what in ("SE", "library", "seed sd", "detectable")]
    body = [
        [row.label, *(text for name in COLUMNS for text in _certainty(row.cells.get(name)))]
        for row in rows
        if row.cells
    ]
    return Block("uncertainty (points)", header, body)


def verdicts(rows: Sequence[RowResult]) -> Block:
    """Our numbers against the paper's, one word per cell."""
    judged = [row for row in rows if any(cell.verdict for cell in row.cells.values())]
    body = [[row.label, *(_verdict(row, name) for name in COLUMNS)] for row in judged]
    return Block("against the paper", list(COLUMNS.values()), body)


def table_notes(results: Results, scale: str) -> tuple[str, ...]:
    """Sentences that explain how to read the table and its blocks."""
    notes = [INTERVALS]
    if results.compared:
        least = min(1.0, results.compared * 2 / (ROUNDS + 1))
        notes.append(
            f"p: two-sided bootstrap of {ROUNDS:,} rounds, Holm-corrected over all {results.compared} differences of "
            f"the table; {p_text(least)} is the smallest p that this number of rounds can give."
        )
    notes.append(
        "Uncertainty: SE is ours, over prompts and seeds together. The library's own value differs because it sees one "
        "run: for WR it covers prompts alone; for LC it measures how prompts differ in difficulty, which is not an "
        "error of the score; for Arena-Hard it counts a strong verdict as three independent games and the two games of "
        f"a prompt as two prompts. Detectable: the true difference to {results.compare_label} that shows 80 times in "
        "100 at p < .05 before correction."
    )
    if not verdicts([row for rows in results.rows.values() for row in rows]).body:
        reason = "no cell was judged under the paper's protocol" if results.has_paper else "there is none at this scale"
        notes.append(f"No cell has a verdict against the paper's number: {reason}.")
    return (*notes, SCALE_NOTES[scale]) if scale in SCALE_NOTES else tuple(notes)


def _body(rows: Sequence[RowResult], text: Callable[[Cell | None], str]) -> list[list[str]]:
    body = [[row.label, *(text(row.cells.get(name)) for name in COLUMNS)] for row in rows]
    return [line for line in body if set(line[1:]) != {NONE}]


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return NONE
    found = cell.difference
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}] p={p_text(cell.p_holm)}"


def p_text(value: float) -> str:
    """Format a p-value: three digits, no leading zero."""
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _certainty(cell: Cell | None) -> list[str]:
    if cell is None:
        return [NONE] * 4
    known = (cell.se, cell.library_se, cell.seed_sd, cell.detectable if cell.difference else None)
    return [NONE if value is None else f"{value:.1f}" for value in known]


def _verdict(row: RowResult, name: str) -> str:
    cell = row.cells.get(name)
    return f"{cell.value:.1f}, paper {row.paper[name]:.1f}: {cell.verdict}" if cell and cell.verdict else NONE
