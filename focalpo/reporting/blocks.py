"""The blocks below the table: differences with p-values, the uncertainty of each number, verdicts against the paper.

Results --> Block (title, header, rows of text) for each setting; every format prints the same words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.styled import CATEGORY, COLUMN
from focalpo.scoring.sanity import MOST
from focalpo.scoring.stats import ROUNDS
from focalpo.stages.metrics import NONE, Column
from focalpo.stages.suites import lm_eval_version, suites

INTERVALS = (
    f"In brackets: 95% bootstrap intervals of {ROUNDS:,} rounds; prompts are resampled (both games and all seeds of a "
    "prompt together), crossed with seeds where a row has several."
)
FEW_SEEDS = 3
"""A standard deviation of three values has two degrees of freedom: it is half or twice the true one 4 times in 10."""
SCALE_NOTES = {
    "pocket": "Pocket scale: a 0.2M-parameter model in a world whose gold reward is known. It shows how the losses "
    "behave there, not how they rank on real models.",
    "laptop": "Laptop scale: a real chat model, of 135M parameters with 4-bit weights, trained on pairs of its own "
    "answers that a rule rewards. It says nothing about preferences of people, nor about models fifty times as large. "
    "All prompts are ours: IFEval lends its checkers, for the kinds of instructions that were trained and for new "
    "ones.",
    "one_gpu": "One-GPU scale: a small chat model and a judge of your own; do not compare it with the paper.",
    "paper": "The paper's judge is retired: compare numbers only under the same protocol hash.",
    "author": "The first author's own settings of December 2024; which of those runs became the paper's is not known.",
}


@dataclass(frozen=True, slots=True)
class Block:
    """A small table; its title heads the first column."""

    title: str
    header: Sequence[str]
    body: Sequence[Sequence[str]]


def blocks(rows: Sequence[RowResult], results: Results) -> list[Block]:
    """The blocks of one setting, without those that have no rows."""
    candidates = [make(rows, results) for make in (differences, equivalences, missing, certainty, verdicts)]
    return [block for block in candidates if block.body]


def differences(rows: Sequence[RowResult], results: Results) -> Block:
    """Paired differences: every row minus the row that the table compares with, on the same prompts."""
    compared = [row for row in rows if row.name != results.compare_with]
    body = _body(compared, results.columns, _difference)
    return Block(f"minus {results.compare_label}, paired", _titles(results), body)


def equivalences(rows: Sequence[RowResult], results: Results) -> Block:
    """The p-value of each difference being as large as the margin: below .05 the two rows are equivalent."""
    compared = [row for row in rows if row.name != results.compare_with]
    return Block(f"within ±{results.margin:g} points, p", _titles(results), _body(compared, results.columns, _equal))


def missing(rows: Sequence[RowResult], results: Results) -> Block:
    """The verdicts that each number lacks, and between what it would be with them."""
    body = [[row.label, *(_missing(row.cells.get(column.name)) for column in results.columns)] for row in rows]
    return Block("missing verdicts", _titles(results), [line for line in body if set(line[1:]) - {NONE}])


def certainty(rows: Sequence[RowResult], results: Results) -> Block:
    """For each number: its standard error, the library's own, the spread of seeds, the least detectable difference."""
    shorts = [column.short for column in results.columns]
    header = [f"{short} {what}" for short in shorts for what in ("SE", "library", "seed sd", "detectable")]
    body = [
        [row.label, *(text for column in results.columns for text in _certainty(row.cells.get(column.name)))]
        for row in rows
        if row.cells
    ]
    return Block("uncertainty (points)", header, body)


def verdicts(rows: Sequence[RowResult], results: Results) -> Block:
    """Our numbers against the paper's, one word per cell."""
    judged = [row for row in rows if any(cell.verdict for cell in row.cells.values())]
    body = [[row.label, *(_verdict(row, column.name) for column in results.columns)] for row in judged]
    return Block("against the paper", _titles(results), body)


def few_seeds(results: Results) -> tuple[str, ...]:
    """A warning where rows that are compared have three seeds or fewer, too few to know how much seeds differ."""
    seeds: dict[str, int] = {}
    for row in (row for rows in results.rows.values() for row in rows):
        for cell in row.cells.values():
            if cell.difference is not None or row.name == results.compare_with:
                seeds[row.label] = min(cell.seeds, seeds.get(row.label, cell.seeds))
    few = [label for label, count in seeds.items() if count <= FEW_SEEDS]
    if not few or not results.compared:
        return ()
    return (
        f"{FEW_SEEDS} training seeds or fewer behind {len(few)} of {len(seeds)} rows ({', '.join(few)}): how much "
        "seeds differ is hardly known, and with one seed not at all, so that p-values can be too small",
    )


def _titles(results: Results) -> list[str]:
    return [column.title for column in results.columns]


def table_notes(results: Results, scale: str) -> tuple[str, ...]:
    """Sentences that explain how to read the table and its blocks."""
    notes = [INTERVALS]
    if results.compared:
        notes.append(
            f"Differences: the standard error is the jackknife's, over prompts and over training seeds; interval and p "
            f"(two-sided) are Student's t. Nothing is drawn for them, so that p has no Monte Carlo error. p is "
            f"Holm-corrected over all {results.compared} differences of the table; the intervals are not."
        )
        notes.append(
            f"Within ±{results.margin:g} points of {results.compare_label}: two one-sided tests; below .05 the true "
            "difference is shown to be smaller than that in either direction. Not corrected."
        )
    if any(cell.missing for rows in results.rows.values() for row in rows for cell in row.cells.values()):
        notes.append(
            "Missing: verdicts that the judge did not give, over all seeds. They are left out; beside them stands the "
            "number if the model had lost them all, and if it had won them all."
        )
    notes += [_uncertainty(results), *_unstyled(results), *_checked(results), *_capability(results)]
    if not verdicts([row for rows in results.rows.values() for row in rows], results).body:
        notes.append("No cell stands beside the paper's number: none was judged under the paper's protocol.")
    return (*notes, SCALE_NOTES[scale]) if scale in SCALE_NOTES else tuple(notes)


def _uncertainty(results: Results) -> str:
    """What the errors of each kind of column are, of the library's own for those that the table has."""
    names = {"arena_hard" if column.source == "arena_hard" else column.name for column in results.columns}
    own = {
        "ae2_wr": "for WR it covers prompts alone",
        "ae2_lc": "for LC it measures how prompts differ in difficulty, which is not an error of the score",
        "arena_hard": "for Arena-Hard it counts a strong verdict as three independent games and the two games of a "
        "prompt as two prompts",
    }
    said = [text for name, text in own.items() if name in names]
    if any(column.stage == "check" for column in results.columns):
        said.append("for IFEval's prompts it covers prompts alone, and for instructions there is none")
    if any(column.stage == "capability" for column in results.columns):
        said.append("for lm-eval's tasks it covers documents alone")
    return (
        "Uncertainty: SE is ours, over prompts and seeds together. The library's own value differs because it sees one "
        f"run: {'; '.join(said)}. Detectable: the true difference to {results.compare_label} that shows 80 times in "
        "100 at p < .05 after correction for all differences of the table."
    )


def _unstyled(results: Results) -> list[str]:
    """Where Arena-Hard v2's hard prompts were judged, and no score at equal style could be computed."""
    columns = {setting: {name for row in rows for name in row.cells} for setting, rows in results.rows.items()}
    lacking = [results.settings[s] for s, names in columns.items() if CATEGORY in names and COLUMN not in names]
    if not lacking:
        return []
    return [
        f"No score at equal style in {', '.join(lacking)}: a run won or lost every battle, or style alone decides, so "
        "that the ratings of all rows, which are fitted together, have no finite values."
    ]


def _checked(results: Results) -> list[str]:
    """What the columns checked by code count, where there are any."""
    if all(column.stage != "check" for column in results.columns):
        return []
    return [
        "Checked by code, strictly: prompt is the share of prompts of which an answer follows all instructions, "
        "instruction the share of instructions followed. Loose also tries the answer without its first line, its last "
        "line and its asterisks (Zhou et al. 2023)."
    ]


def _capability(results: Results) -> list[str]:
    """What the columns of lm-eval's tasks are, where there are any."""
    tasks = [tasks[column.name] for column in results.columns for tasks in suites().values() if column.name in tasks]
    if not tasks:
        return []
    told = ", ".join(f"{task.label} ({task.task}, {task.shots}-shot, {task.metric})" for task in tasks)
    return [f"Tasks of lm-eval {lm_eval_version()}, run by its own code, in percent: {told}."]


def _body(rows: Sequence[RowResult], columns: Sequence[Column], text: Callable[[Cell | None], str]) -> list[list[str]]:
    body = [[row.label, *(text(row.cells.get(column.name)) for column in columns)] for row in rows]
    return [line for line in body if set(line[1:]) - {NONE}]


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return NONE
    found = cell.difference
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}] p={p_text(cell.p_holm)}"


def _missing(cell: Cell | None) -> str:
    return NONE if cell is None or not cell.missing else worst_text(cell)


def worst_text(cell: Cell) -> str:
    """How many verdicts a number lacks, and the number if all of them were lost and if all were won."""
    assert cell.worst is not None
    return f"{cell.missing} missing: {cell.worst[0]:.1f} to {cell.worst[1]:.1f}"


def caveats(results: Results) -> list[str]:
    """Sentences on what the numbers of a table hide, where there is no room for blocks and further columns: verdicts
    that lack, and answers that repeat themselves."""
    lacking = [
        f"{row.label}, {column.title}, {results.settings[setting]}: {worst_text(row.cells[column.name])}"
        for setting, rows in results.rows.items()
        for row in rows
        for column in results.columns
        if column.name in row.cells and row.cells[column.name].missing
    ]
    repeating = [
        f"{row.label}{f', {results.settings[setting]}' if len(results.rows) > 1 else ''}: {share:.0f}%"
        for setting, rows in results.rows.items()
        for row in rows
        if (share := row.extras.get("repetitive", 0)) > 100 * MOST["repetitive"]
    ]
    said = {
        "Missing verdicts, and the number if all were lost or won": lacking,
        "Answers that repeat themselves, scored as they stand": repeating,
    }
    return [f"{what}: {'; '.join(found)}." for what, found in said.items() if found]


def _equal(cell: Cell | None) -> str:
    return NONE if cell is None or math.isnan(cell.p_equal) else p_text(cell.p_equal)


def p_text(value: float) -> str:
    """Format a p-value: three digits, no leading zero."""
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _certainty(cell: Cell | None) -> list[str]:
    if cell is None:
        return [NONE] * 4
    known = (cell.se, cell.library_se, cell.seed_sd, cell.detectable if cell.difference else None)
    return [NONE if value is None or math.isnan(value) else f"{value:.1f}" for value in known]


def _verdict(row: RowResult, name: str) -> str:
    cell = row.cells.get(name)
    return f"{cell.value:.1f}, paper {row.paper[name]:.1f}: {cell.verdict}" if cell and cell.verdict else NONE
