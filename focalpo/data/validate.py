"""Two splits in, checked pairs out: all bad rows are found at once, then named (`error`) or counted (`drop`).

A row that could not become a pair and a pair that nothing can be learned from end in the same report, under the row
number of their source.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from focalpo.data import schemas
from focalpo.data.schemas import Split, prompt_key
from focalpo.stages.records import Messages, Pair

EMPTY = "empty response"
EMPTY_TURN = "empty turn in the prompt"
IDENTICAL = "identical chosen and rejected"
DUPLICATE = "duplicate of an earlier pair"
OVERLAP = "train prompt that is also in test"
# The order of the report; a dropped row that has several problems is counted under the first of them.
KINDS = (
    schemas.MISSING,
    schemas.TURNS,
    schemas.DIFFERENT,
    schemas.OUT_OF_RANGE,
    schemas.TIE,
    EMPTY,
    EMPTY_TURN,
    IDENTICAL,
    DUPLICATE,
    OVERLAP,
)
SHOWN = 5

Found = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Checked:
    """Pairs fit to train and test on; `dropped` counts rows by problem, `schemas` names each split's layout."""

    train: list[Pair]
    test: list[Pair]
    dropped: dict[str, int]
    schemas: dict[str, str]


def validate(train: Split, test: Split, on_bad_rows: Literal["error", "drop"]) -> Checked:
    """Check both splits; a prompt in both is taken out of train, and ties are no fault: they are always dropped.

    Raises:
        ValueError: with `error`, when any row is bad: one line a problem, with row numbers; always, when a split has no
            good pair left.
    """
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}; set it to error or drop")
    # A test prompt is held out even where its own row is dropped: mending that row must not leak it into train.
    held_out = {prompt_key(pair.prompt) for pair in test.pairs.values()}
    found = [(train, problems(train, held_out)), (test, problems(test, set()))]
    faults = [line for kind in KINDS if kind != schemas.TIE for line in described(kind, found)]
    if faults and on_bad_rows == "error":
        raise ValueError("\n  ".join(["bad rows: mend them, or set on_bad_rows=drop", *faults]))
    good_train, good_test = (good(split, bad) for split, bad in found)
    for name, split, kept in (("train", train, good_train), ("test", test, good_test)):
        if not kept:
            report = [line for kind in KINDS for line in described(kind, found)]
            raise ValueError("\n  ".join([f"no good {name} pair in {split.source}: use other data", *report]))
    return Checked(good_train, good_test, dropped(found), {"train": train.schema, "test": test.schema})


def problems(split: Split, held_out: Set[tuple]) -> Found:
    """Every problem of a split as problem -> source rows; `held_out` are the prompts it may not contain."""
    found = {kind: list(rows) for kind, rows in split.bad.items()}
    seen = set()
    for row, pair in split.pairs.items():
        prompt, chosen, rejected = prompt_key(pair.prompt), pair.chosen.strip(), pair.rejected.strip()
        verdicts = {
            schemas.TURNS: not alternates(pair.prompt),
            EMPTY: not chosen or not rejected,
            EMPTY_TURN: any(not content for role, content in prompt if role != "system"),
            IDENTICAL: chosen == rejected,
            DUPLICATE: (prompt, pair.chosen, pair.rejected) in seen,
            OVERLAP: prompt in held_out,
        }
        seen.add((prompt, pair.chosen, pair.rejected))
        for kind, holds in verdicts.items():
            if holds:
                found.setdefault(kind, []).append(row)
    return found


def alternates(prompt: Messages) -> bool:
    """Whether a prompt is [system,] user, assistant, ..., user."""
    roles = [message["role"] for message in prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return len(turns) % 2 == 1 and turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]


def good(split: Split, found: Found) -> list[Pair]:
    """The pairs of a split, in source order, that have no problem."""
    bad = {row for rows in found.values() for row in rows}
    return [pair for row, pair in split.pairs.items() if row not in bad]


def dropped(found: list[tuple[Split, Found]]) -> dict[str, int]:
    """How many rows each problem cost, each row counted once."""
    counts: dict[str, int] = {}
    for _, bad in found:
        counted: set[int] = set()
        for kind in KINDS:
            fresh = set(bad.get(kind, [])) - counted
            if fresh:
                counts[kind] = counts.get(kind, 0) + len(fresh)
            counted |= fresh
    return counts


def described(kind: str, found: list[tuple[Split, Found]]) -> list[str]:
    """The report's line on one problem: how many rows have it, and where the first of them are; none, no line."""
    # Two splits cut from one source share its row numbers, so the line speaks of sources, not of splits.
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
