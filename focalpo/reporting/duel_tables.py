"""Duels as text: the finding in one sentence, tables for a terminal (100 columns) and as Markdown, and CSV."""

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from itertools import product

from focalpo.reporting.blocks import FEW_SEEDS, p_text
from focalpo.reporting.duels import DuelResults, Line, Rated, source_of, title_of
from focalpo.reporting.finding import LEVEL, SUBJECT
from focalpo.reporting.tables import aligned
from focalpo.reporting.terminal import MOST_WARNINGS, WIDTH
from focalpo.scoring.bradley_terry import Standing
from focalpo.scoring.differences import Difference
from focalpo.scoring.duels import EVEN
from focalpo.stages.metrics import NONE

HEAD = ("seeds", "WR", "LC", "ties %", "same %", "agree %", "lead")
NOTES = (
    "WR: percent of the games that the first row wins, ties half; both orders of every prompt; ± half a 95% interval "
    "over prompts and training seeds. LC: the same between answers of equal length.",
    "ties: games without a winner. same: prompts to which both rows give the same answer, which is a tie without a "
    "call. agree: of the others, the same winner in both orders. lead: points that an answer gains by being shown "
    "first.",
)
RATING_NOTE = (
    "Bradley-Terry: Elo points above {base}, and the win rate that they imply against it, with 95% intervals over "
    "prompts and seeds; from the seeds that all pairs have."
)


def as_text(results: DuelResults) -> str:
    """For a terminal."""
    warned = [f"WARNING: {each}" for each in results.warnings[:MOST_WARNINGS]]
    if more := len(results.warnings) - len(warned):
        warned.append(f"... and {more} more warnings, see duels.md")
    texts = [results.title, *warned, finding(results), *map(str, results.judges)]
    tables = [f"{results.settings[name]}\n{_aligned(rows)}" for name, rows in _tables(results)]
    ratings = [_aligned(rows) for rows in _ratings(results)]
    return "\n\n".join([*map(_wrapped, texts), *tables, *ratings, "\n".join(map(_wrapped, _notes(results)))]) + "\n"


def as_markdown(results: DuelResults) -> str:
    """For a page."""
    parts = [f"**{results.title}**", *(f"WARNING: {each}" for each in results.warnings), finding(results)]
    tables = [_markdown(rows, results.settings[name]) for name, rows in _tables(results)]
    ratings = [_markdown(rows) for rows in _ratings(results)]
    return "\n\n".join([*parts, *map(str, results.judges), *tables, *ratings, *_notes(results)]) + "\n"


def finding(results: DuelResults) -> str:
    """How many scores of the subject's duel differ from 50, in which direction, and which is the farthest from it."""
    pair = next(
        ((line.first, line.second) for line in results.lines if {line.first, line.second} == {SUBJECT, results.base}),
        (results.lines[0].first, results.lines[0].second),
    )
    lines = [line for line in results.lines if (line.first, line.second) == pair]
    scores = [
        (found, p, f"{title_of(line.benchmark)} {kind}, {_short(results.settings[line.setting])}")
        for line in lines
        for kind, found, p in _scores(line)
        if found is not None
    ]
    first, second = (results.rows[row] for row in pair)
    farthest, _, place = max(scores, key=lambda each: abs(each[0].value))
    extreme = f"the farthest from 50 is {_between(farthest)} ({place})"
    rule = f"p < .05 after Holm's correction over all {results.tests}"
    sure = [found.value for found, p, _ in scores if p < LEVEL]
    if not sure:
        least = max(found.detectable(results.tests) for found, _, _ in scores)
        return (
            f"{first} and {second} cannot be told apart: none of the {len(scores)} scores of their duels differs "
            f"significantly from 50 ({rule}), {extreme}; a true {EVEN + least:.1f} would be significant 4 times in 5."
        )
    won = sum(value > 0 for value in sure)
    return (
        f"{first} is significantly ahead of {second} in {won} and behind in {len(sure) - won} of the {len(scores)} "
        f"scores of their duels ({rule}); {extreme}."
    )


def as_csv(results: DuelResults) -> str:
    """One line per setting, pair and benchmark, every number at full precision."""
    ends = ("", "_low", "_high", "_se", "_p", "_p_holm")
    fields = [f"{kind}{end}" for kind in ("wr", "lc") for end in ends]
    fields += [
        "ties",
        "same",
        "agree",
        "lead",
        "missing",
        "worst_low",
        "worst_high",
        "judge",
        "protocol",
        "protocol_hash",
    ]
    body = []
    for line in results.lines:
        found = line.found
        numbers = [each for _, score, p in _scores(line) for each in _ends(score, p)]
        shown = [found.ties, found.same, found.agree, found.lead, found.missing, *(found.worst or (None, None))]
        place = [line.setting, line.benchmark, line.first, line.second, found.seeds, found.prompts]
        judges = [each for each in results.judges if each.source == source_of(line.benchmark)]
        who = zip(*((each.by, each.protocol, each.hash) for each in judges), strict=True)
        body.append([*place, *numbers, *shown, *(" and ".join(dict.fromkeys(each)) for each in who)])
    return _csv(["setting", "benchmark", "first", "second", "seeds", "prompts", *fields], body)


def ratings_csv(results: DuelResults) -> str:
    """One line per setting, benchmark and row: log-odds, Elo points and expected win rate against the base."""
    ends = ("", "_low", "_high")
    fields = [f"{kind}{end}" for kind in ("log_odds", "elo", "wr") for end in ends]
    body = [
        [rated.setting, rated.benchmark, each.row, results.base, rated.seeds, *_numbers(each)]
        for rated in results.rated
        for each in rated.standings
    ]
    return _csv(["setting", "benchmark", "row", "against", "seeds", *fields], body)


def _tables(results: DuelResults) -> Iterator[tuple[str, list[list[str]]]]:
    """Each setting's duels: its benchmarks below each other, and under each the rows by whom they meet."""
    for setting in dict.fromkeys(line.setting for line in results.lines):
        rows = [["", *HEAD]]
        mine = [line for line in results.lines if line.setting == setting]
        for benchmark, second in product(*(dict.fromkeys(column) for column in zip(*map(_group, mine), strict=True))):
            group = [line for line in mine if _group(line) == (benchmark, second)]
            rows.append([f"{title_of(benchmark)}, against {results.rows[second]}", *[""] * len(HEAD)])
            rows += [[f"  {results.rows[line.first]}", *_cells(line)] for line in group]
        yield setting, rows


def _group(line: Line) -> tuple[str, str]:
    return line.benchmark, line.second


def _cells(line: Line) -> list[str]:
    found = line.found
    scores = [_score(score, p) for _, score, p in _scores(line)]
    rest = [f"{found.ties:.1f}", f"{found.same:.1f}", _or_none(found.agree, ".1f"), _or_none(found.lead, "+.1f")]
    return [str(found.seeds), *scores, *rest]


def _ratings(results: DuelResults) -> Iterator[list[list[str]]]:
    """Each setting's ratings, benchmarks side by side where there are two."""
    for setting in dict.fromkeys(rated.setting for rated in results.rated):
        mine = [rated for rated in results.rated if rated.setting == setting and rated.standings]
        for part in (mine[place : place + 2] for place in range(0, len(mine), 2)):
            yield _rating_rows(results, _short(results.settings[setting]), part)


def _rating_rows(results: DuelResults, setting: str, part: Sequence[Rated]) -> list[list[str]]:
    head = [f"{title_of(rated.benchmark)} {what}" for rated in part for what in ("Elo", "WR")]
    by_row = [{each.row: each for each in rated.standings} for rated in part]
    return [
        [f"Bradley-Terry, {setting}", *head],
        *([results.rows[row], *(text for found in by_row for text in _standing(found[row]))] for row in by_row[0]),
    ]


def _standing(found: Standing) -> list[str]:
    if not found.rating.error:  # the row that the others are compared with
        return ["0", f"{EVEN:.0f}"]
    elo, rate = found.elo, found.win_rate
    return [f"{elo.value:+.0f} ±{(elo.high - elo.low) / 2:.0f}", f"{rate.value:.1f} ±{(rate.high - rate.low) / 2:.1f}"]


def _notes(results: DuelResults) -> list[str]:
    notes = [*NOTES, f"* differs from 50, p < .05 after Holm's correction over all {results.tests} scores."]
    if any(rated.standings for rated in results.rated):
        notes.append(RATING_NOTE.format(base=results.rows[results.base]))
    notes += dict.fromkeys(f"No Bradley-Terry table: {rated.why}." for rated in results.rated if rated.why)
    if few := [line.found.seeds for line in results.lines if line.found.seeds <= FEW_SEEDS]:
        notes.append(
            f"{FEW_SEEDS} training seeds or fewer behind {len(few)} of {len(results.lines)} lines: how much seeds "
            "differ is hardly known, and with one seed not at all, so that p-values can be too small."
        )
    return notes + [_missing(results, line) for line in results.lines if line.found.missing]


def _missing(results: DuelResults, line: Line) -> str:
    assert line.found.worst is not None
    low, high = line.found.worst
    place = f"{results.pair(line)}, {title_of(line.benchmark)}, {results.settings[line.setting]}"
    return f"{place}: {line.found.missing} games have no verdict; WR {low:.1f} if all were lost, {high:.1f} if all won."


def _scores(line: Line) -> list[tuple[str, Difference | None, float]]:
    return [("WR", line.found.win_rate, line.p_holm), ("LC", line.found.controlled, line.p_holm_controlled)]


def _score(found: Difference | None, p: float) -> str:
    if found is None:
        return f"{NONE} "
    return f"{EVEN + found.value:.1f} ±{(found.high - found.low) / 2:.1f}{'*' if p < LEVEL else ' '}"


def _between(found: Difference) -> str:
    low, high = EVEN + found.low, EVEN + found.high
    return f"{EVEN + found.value:.1f} [{low:.1f}, {high:.1f}], p={p_text(found.p)} uncorrected"


def _ends(found: Difference | None, p: float) -> list[float | None]:
    if found is None:
        return [None] * 6
    return [*(EVEN + each for each in (found.value, found.low, found.high)), found.error, found.p, p]


def _numbers(found: Standing) -> list[float]:
    return [end for each in (found.rating, found.elo, found.win_rate) for end in (each.value, each.low, each.high)]


def _or_none(value: float | None, form: str) -> str:
    return NONE if value is None else format(round(value, 1) + 0.0, form)  # no -0.0


def _short(label: str) -> str:
    return label.partition(" (")[0]


def _aligned(rows: list[list[str]]) -> str:
    return "\n".join(line.rstrip() for line in aligned(rows).splitlines())


def _csv(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([head, *([NONE if each is None else each for each in line] for line in body)])
    return out.getvalue()


def _markdown(rows: Sequence[Sequence[str]], title: str = "") -> str:
    head, *body = [[cell.strip() for cell in row] for row in rows]
    lines = [[head[0] or title, *head[1:]], ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line).replace("*", "\\*") + " |" for line in lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
