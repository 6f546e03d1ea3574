"""Two splits in, checked pairs out: all bad rows are found at once, then reported (`error`) or counted (`drop`).

Rows that could not be converted and pairs that cannot be trained on appear in the same report, by source row number.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

from focalpo.data import columns, values
from focalpo.data.schemas import Split
from focalpo.data.unpaired import NO_LABEL
from focalpo.data.values import prompt_key
from focalpo.stages.records import Messages, Pair

EMPTY = "empty response"
EMPTY_TURN = "empty turn in the prompt"
IDENTICAL = "identical chosen and rejected"
DUPLICATE = "duplicate of an earlier pair"
CONTRADICTED = "the same two answers are also labelled the other way round"
OVERLAP = "train prompt that is also in test"
# The order of the report, after problems that name a column or key; a dropped row counts under its first one.
KINDS = (
    values.MISSING,
    values.GARBLED,
    values.UNENCODABLE,
    values.PARTS,
    values.TURNS,
    values.SYSTEMS,
    values.DIFFERENT,
    columns.NO_SCORE,
    values.NO_PREFERENCE,
    NO_LABEL,
    values.TIE,
    EMPTY,
    EMPTY_TURN,
    IDENTICAL,
    CONTRADICTED,
    DUPLICATE,
    OVERLAP,
)
SHOWN = 5

Found = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Checked:
    """Valid train and test pairs; `dropped` counts rows by problem, `schemas` names the schema of each split.

    `not_read` names the columns that were not read, `equal_scores` counts the rows whose two scores are equal: the
    published sets hold such pairs and every recipe trains on them, so they are said, not dropped.
    """

    train: list[Pair]
    test: list[Pair]
    dropped: dict[str, int]
    schemas: dict[str, str]
    not_read: Sequence[str] = ()
    equal_scores: int = 0


def validate(train: Split, test: Split, on_bad_rows: Literal["error", "drop"]) -> Checked:
    """Check both splits; a prompt in both is removed from train. Ties are not errors; they are always dropped.

    Raises:
        ValueError: with `error`, when any row is bad: one line per problem, with row numbers; in both modes, when a
            split has no valid pair left.
    """
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}; set it to error or drop")
    # A test prompt is held out even if its row is dropped: otherwise repairing that row later would leak it into train.
    held_out = {prompt_key(pair.prompt) for pair in test.pairs.values()}
    found = [(train, problems(train, held_out)), (test, problems(test, set()))]
    kinds = ordered(found)
    faults = [line for kind in kinds if kind != values.TIE for line in described(kind, found)]
    if faults and on_bad_rows == "error":
        raise ValueError("\n  ".join(["bad rows: fix them, or set on_bad_rows=drop", *faults]))
    good_train, good_test = (good(split, bad) for split, bad in found)
    for name, split, kept in (("train", train, good_train), ("test", test, good_test)):
        if not kept:
            report = [line for kind in kinds for line in described(kind, found)]
            remedy = "use other data or another split"
            raise ValueError("\n  ".join([f"no valid {name} pair in {split.source}: {remedy}", *report]))
    names = {"train": train.schema, "test": test.schema}
    not_read = sorted({*train.not_read, *test.not_read})
    equal_scores = len(train.equal_scores) + len(test.equal_scores)
    return Checked(good_train, good_test, dropped(found), names, not_read, equal_scores)


def problems(split: Split, held_out: Set[tuple]) -> Found:
    """Every problem of a split as problem -> source rows; `held_out` are prompts that it must not contain."""
    found = {kind: list(rows) for kind, rows in split.bad.items()}
    seen = set()
    labelled = {(prompt_key(pair.prompt), pair.chosen.strip(), pair.rejected.strip()) for pair in split.pairs.values()}
    for row, pair in split.pairs.items():
        prompt, chosen, rejected = prompt_key(pair.prompt), pair.chosen.strip(), pair.rejected.strip()
        checks = {
            values.TURNS: not alternates(pair.prompt),
            EMPTY: not (chosen or rejected) if split.unpaired else not (chosen and rejected),
            EMPTY_TURN: any(not content for role, content in prompt if role != "system"),
            IDENTICAL: chosen == rejected and not split.unpaired,
            CONTRADICTED: chosen != rejected and (prompt, rejected, chosen) in labelled,
            DUPLICATE: (prompt, pair.chosen, pair.rejected) in seen,
            OVERLAP: prompt in held_out,
        }
        seen.add((prompt, pair.chosen, pair.rejected))
        for kind, failed in checks.items():
            if failed:
                found.setdefault(kind, []).append(row)
    return found


def alternates(prompt: Messages) -> bool:
    """Whether a prompt is [system,] user, assistant, ..., user."""
    roles = [message["role"] for message in prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return len(turns) % 2 == 1 and turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]


def good(split: Split, found: Found) -> list[Pair]:
    """The pairs of a split that have no problem, in source order."""
    bad = {row for rows in found.values() for row in rows}
    return [pair for row, pair in split.pairs.items() if row not in bad]


def dropped(found: list[tuple[Split, Found]]) -> dict[str, int]:
    """Number of rows dropped by problem; each row counts once, under its first problem."""
    counts: dict[str, int] = {}
    for _, bad in found:
        counted: set[int] = set()
        for kind in ordered(found):
            uncounted = set(bad.get(kind, [])) - counted
            if uncounted:
                counts[kind] = counts.get(kind, 0) + len(uncounted)
            counted |= uncounted
    return counts


def ordered(found: list[tuple[Split, Found]]) -> list[str]:
    """The problems found, in the order of the report: those that name a column or key first."""
    kinds = {kind for _, bad in found for kind in bad}
    return [*sorted(kinds - {*KINDS}), *(kind for kind in KINDS if kind in kinds)]


def described(kind: str, found: list[tuple[Split, Found]]) -> list[str]:
    """The report line of one problem, as a list of at most one: how many rows have it, and where the first ones are."""
    # Two splits of one source share its row numbers, so the line names sources, not splits.
    rows_by_source: dict[str, list[int]] = {}
    for split, bad in found:
        rows_by_source.setdefault(split.source, []).extend(bad.get(kind, []))
    count = sum(map(len, rows_by_source.values()))
    places = []
    for source, rows in rows_by_source.items():
        if rows:
            more = ", ..." if len(rows) > SHOWN else ""
            places.append(f"{source} row {', '.join(map(str, sorted(rows)[:SHOWN]))}{more}")
    return [f"{kind}: {count} in {'; '.join(places)}"] if count else []
