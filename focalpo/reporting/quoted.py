"""Numbers that the paper quotes, by a key that says where each is from.

    \\val{pocket/focalpo/base/ae2_lc/difference} in docs/paper/*.tex --> quote() --> Quote(text, source)

claim/NAME/says, claim/NAME/SCALE, claim/NAME/SCALE/why     the claims and their verdicts
theory/WHAT/GAMMA[/P or BETA]                               the loss
author/WHAT[/RUN[/OTHER]], printed/SETTING/ROW/COLUMN                  eval/author_runs.yaml, eval/paper_table1.yaml
TABLE/WHAT                                                  a published table as a whole
TABLE/ROW/WHAT                                              a row against the one it is compared with
TABLE/ROW/SETTING/COLUMN/WHAT                               a cell
TABLE/pairs/ROW[-OTHER]/SETTING/QUANTITY                    its pairs.csv, minus another row, paired by seed
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from focalpo.reporting.cells import Cell
from focalpo.reporting.claim_verdict import ALGEBRA, Verdict
from focalpo.reporting.claims import Claims
from focalpo.reporting.claims_about_pairs import of_row, row_minus
from focalpo.reporting.claims_about_scores import Score, detectable, equal, scores_of
from focalpo.reporting.claims_about_weights import START, heaviest, weight_at
from focalpo.reporting.claims_shown import Verdicts
from focalpo.reporting.published import Published
from focalpo.reporting.theory import sign_flip
from focalpo.stages.author_runs import AuthorRuns


@dataclass(frozen=True, slots=True)
class Quote:
    """A number or a sentence of numbers as the paper prints it, and where it can be looked up."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that a number of the paper may be from; `tables` are the published ones by name."""

    tables: Mapping[str, Published]
    claims: Claims
    verdicts: Verdicts
    author: AuthorRuns
    printed: Mapping[str, Mapping[str, Mapping[str, object]]]


class Unquotable(Exception):
    """A key of the text names nothing that is there."""


def quote(key: str, sources: Sources) -> Quote:
    """The number behind a key.

    Raises:
        Unquotable: when the key names nothing.
    """
    try:
        match key.split("/"):
            case ["claim", name, "says"]:
                return Quote(sources.claims.claims[name].says, "eval/claims.yaml")
            case ["claim", name, scale]:
                return _verdict(sources.verdicts[name][scale], why=False)
            case ["claim", name, scale, "why"]:
                return _verdict(sources.verdicts[name][scale], why=True)
            case ["theory", what, *numbers]:
                return Quote(_theory(what, *map(float, numbers)), "focalpo/reporting/theory.py")
            case ["author", *words]:
                return Quote(_author(sources.author, *words), "eval/author_runs.yaml")
            case ["printed", setting, row, column]:
                return Quote(str(sources.printed[setting][row][column]), "eval/paper_table1.yaml")
            case [name, "pairs", rows, setting, quantity]:
                return Quote(_pairs(sources.tables[name], rows, setting, quantity), f"docs/{name}/pairs.csv")
            case [name, what]:
                return Quote(TABLE[what](sources.tables[name]), f"docs/{name}/")
            case [name, row, what]:
                table = sources.tables[name]
                return Quote(ROW[what](scores_of(table.results, row)), table.source)
            case [name, row, setting, column, what]:
                return _cell(sources.tables[name], row, setting, column, what)
    except (KeyError, ValueError) as error:  # a name that nothing has, a number that is none, a row without scores
        raise Unquotable(f"{key} names no number: {error}") from error
    raise Unquotable(f"{key} names no number: it has too few or too many parts")


def _verdict(found: Verdict, why: bool) -> Quote:
    return Quote(found.why if why else found.short, "the loss" if found.source == ALGEBRA else found.source or "docs/")


def _theory(what: str, gamma: float, at: float = math.nan, *more: float) -> str:
    if more:
        raise KeyError(f"{what} of so many numbers")
    if what == "start":  # the loss of every pair before the first step
        return f"{START**gamma * math.log(2):.3f}"
    if what == "ratio":
        return f"{weight_at(at, gamma) / weight_at(at, 0.0):.2f}"
    if what == "weight":
        return f"{weight_at(at, gamma):.2f}"
    if what == "heaviest":
        return f"{heaviest(gamma):.2f}"
    if what == "flip":
        return _scientific(sign_flip(gamma))
    if what == "flip_nats":  # u = logit of p, over beta
        return f"{math.log(sign_flip(gamma) / (1 - sign_flip(gamma))) / at:.0f}"
    raise KeyError(what)


def _author(runs: AuthorRuns, *words: str) -> str:
    match words:
        case ["beta"]:
            return f"{runs.beta:g}"
        case ["runs"]:
            return str(len(runs.runs))
        case ["gammas"]:
            return ", ".join(f"{gamma:g}" for gamma in sorted({run.gamma for run in runs.runs.values()} - {0.0}))
        case ["exponent", run, other]:  # of 2, in the ratio of their last losses: where p is 1/2 it is -gamma
            return f"{math.log2(runs.runs[run].evaluations[-1].loss / runs.runs[other].evaluations[-1].loss):.3f}"
        case [("loss" | "reward_accuracy" | "reward_margin") as what, run]:
            return f"{getattr(runs.runs[run].evaluations[-1], what):.3g}"
    raise KeyError("/".join(words))


def _pairs(table: Published, rows: str, setting: str, quantity: str) -> str:
    row, minus, other = rows.partition("-")
    found = row_minus(table, row, other, quantity) if minus else of_row(table, row, quantity)
    mean = {each.setting: each.mean for each in found}[setting]
    sign = "+" if minus else ""
    value, low, high = (format(number, f"{sign}.1f") for number in (mean.value, mean.low, mean.high))
    return f"{value} [{low}, {high}]"


def _cell(table: Published, row: str, setting: str, column: str, what: str) -> Quote:
    found = {each.name: each for each in table.results.rows[setting]}[row]
    where = f"make why CELL={row}/{setting}/{column}"
    report = f" REPORT=runs/{table.report}" if table.report else ""
    return Quote(CELL[what](found.cells[column]), f"{table.source}; {where}{report}")


def _largest(scores: Sequence[Score]) -> str:
    return str(max(scores, key=lambda score: abs(score.difference.value)))


def _difference(cell: Cell) -> str:
    found = cell.difference
    if found is None:
        raise KeyError("difference")
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _counts(table: Published, what: Callable[[Cell], int]) -> str:
    cells = [cell for rows in table.results.rows.values() for row in rows for cell in row.cells.values()]
    return " or ".join(map(str, sorted({what(cell) for cell in cells})))


def _hours(table: Published) -> str:
    return "not recorded" if table.hours is None else f"{table.hours:g}"


def _scientific(value: float) -> str:
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{value:.2g}" if value > 1e-3 else f"{digits} x 10^{int(power)}"


TABLE: dict[str, Callable[[Published], str]] = {
    "commit": lambda table: table.commit,
    "report": lambda table: table.report or "not kept",
    "hours": _hours,
    "machine": lambda table: table.machine or "not recorded",
    "margin": lambda table: f"{table.results.margin:g}",
    "rows": lambda table: str(max(map(len, table.results.rows.values()))),
    "settings": lambda table: str(len(table.results.rows)),
    "differences": lambda table: str(table.results.compared),
    "seeds": lambda table: _counts(table, lambda cell: cell.seeds),
    "prompts": lambda table: _counts(table, lambda cell: cell.prompts),
}
ROW: dict[str, Callable[[Sequence[Score]], str]] = {
    "compared": lambda scores: str(len(scores)),
    "ahead": lambda scores: str(sum(score.sign > 0 for score in scores)),
    "behind": lambda scores: str(sum(score.sign < 0 for score in scores)),
    "equal": lambda scores: str(equal(scores)),
    "largest": _largest,
    "lowest": lambda scores: f"{min(score.difference.value for score in scores):+.1f}",
    "highest": lambda scores: f"{max(score.difference.value for score in scores):+.1f}",
    "low": lambda scores: f"{min(score.difference.low for score in scores):+.1f}",
    "high": lambda scores: f"{max(score.difference.high for score in scores):+.1f}",
    "covering": lambda scores: str(sum(score.difference.low <= 0 <= score.difference.high for score in scores)),
    "detectable": lambda scores: "not recorded" if math.isnan(found := detectable(scores)) else f"{found:.1f}",
}
CELL: dict[str, Callable[[Cell], str]] = {
    "value": lambda cell: f"{cell.value:.1f}",
    "interval": lambda cell: f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]",
    "difference": _difference,
    "p": lambda cell: f"{cell.p_holm:.3f}",
}
