"""Rows in any published layout -> pairs of one schema.

A row is a dict of columns, from a file or the hub. A `Split` holds the pairs by source row number, and the rows that
could not be converted. Row numbers count from 1, so in a JSON-lines file they are line numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from focalpo.data.columns import check_columns, score_columns, without
from focalpo.data.layouts import DECODED, SYSTEM, Parts, Schema, fits, recognise
from focalpo.data.values import (
    GARBLED,
    MISSING,
    SYSTEMS,
    TURNS,
    UNENCODABLE,
    BadRow,
    decoded,
    is_empty,
    kind,
    messages,
    shown,
    text,
)
from focalpo.stages.preferences import check_scale, is_outside
from focalpo.stages.reading import is_encodable
from focalpo.stages.records import Messages, Pair, listed


@dataclass(frozen=True, slots=True)
class Split:
    """One split before validation: pairs by source row number; `bad` maps a problem to source rows.

    `not_read` names the columns that hold something and are not read, `equal_scores` the rows whose two scores agree.
    The pairs of an `unpaired` split have one answer each, as chosen or as rejected (focalpo/data/unpaired.py).
    """

    source: str
    pairs: dict[int, Pair]
    schema: str = "pairs"
    bad: dict[str, list[int]] = field(default_factory=dict)
    not_read: Sequence[str] = ()
    equal_scores: Sequence[int] = ()
    unpaired: bool = False


def convert(rows: list[dict], source: str, prefix: str, ignored: Sequence[str] = ()) -> Split:
    """Recognise the schema of `rows` and convert each row to a pair; columns and message keys in `ignored` are dropped.

    The id of a pair is its `prompt_id` if the data has one (with the row number appended if repeated), else `prefix`
    and row number; ids depend on the source alone.

    Raises:
        ValueError: when the columns match no schema, a column that could matter is not read (see `check_columns`), or
            preferences are on another scale.
    """
    rows = [without(_decoded(row), ignored) for row in rows]
    schema = recognise(rows, source)
    scores = score_columns(rows)
    compared = {name for pair in scores for name in (pair.chosen, pair.rejected)}
    labels = check_columns(rows, {"prompt_id", *schema.columns, *schema.optional, *compared}, source, ignored)
    if "preference" in schema.columns:
        _check_preferences(rows, source)

    def parts(row: dict) -> Parts:
        found = _parts(row, schema)
        for pair in scores:
            pair.equal(row)
        return found

    pairs, bad = pairs_of(rows, prefix, parts)
    equal = [number for number in pairs if any(pair.equal(rows[number - 1]) for pair in scores)]
    return Split(source, pairs, schema.name, bad, [shown(name) for name in (*labels, *ignored)], equal)


def pairs_of(
    rows: Sequence[dict], prefix: str, parts: Callable[[dict], Parts]
) -> tuple[dict[int, Pair], dict[str, list[int]]]:
    """The pairs of `rows` by row number, and the rows of each problem for which `parts` raised BadRow."""
    pairs: dict[int, Pair] = {}
    bad: dict[str, list[int]] = {}
    names: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            prompt, chosen, rejected = parts(row)
        except BadRow as problem:
            bad.setdefault(problem.args[0], []).append(number)
            continue
        name = str(row.get("prompt_id") or f"{prefix}-{number:06d}")
        if name in names:
            name = f"{name}-{number:06d}"
        names.add(name)
        pairs[number] = Pair(name, prompt, chosen, rejected)
    return pairs, bad


def _check_preferences(rows: Sequence[dict], source: str) -> None:
    """Check that the judged rows are on AlpacaEval's scale.

    A number outside it is not only that row's problem: on a scale of 1 to 5 a 2 means the opposite.
    """
    preferences = [row.get("preference") for row in rows]
    check_scale(preferences, source)
    outside = [str(number) for number, value in enumerate(preferences, 1) if is_outside(value)]
    if outside:
        raise ValueError(
            f"{source}: the preferences of {listed(outside)} are not on the scale from 1 (output_1 is better) to 2 "
            "(output_2), so the other rows may not be either; convert them all"
        )


def _decoded(row: dict) -> dict:
    return {name: decoded(value) if name in DECODED else value for name, value in row.items()}


def _parts(row: dict, schema: Schema) -> Parts:
    """A row as (prompt, chosen, rejected), with its system turn and history before the prompt.

    Raises:
        BadRow: when a value is of another kind than most rows', or has a problem of its own.
    """
    for column, expected in schema.columns.items():
        check_kind(kind(row.get(column)), expected)
    prompt, chosen, rejected = schema.parts(row)
    if "history" in schema.optional:
        prompt = _history(row) + prompt
    prompt = with_system(row, prompt)
    check_texts(row, prompt, chosen, rejected)
    return prompt, chosen, rejected


def check_texts(row: dict, prompt: Messages, *answers: str) -> None:
    """Check that encoders can read the texts of a row.

    Raises:
        BadRow: when one cannot be encoded.
    """
    if not all(map(is_encodable, [*(turn["content"] for turn in prompt), *answers, str(row.get("prompt_id"))])):
        raise BadRow(UNENCODABLE)


def check_kind(found: str, expected: set[str]) -> None:
    """Check that a value is of a kind that its column expects.

    Raises:
        BadRow: when it is not, with the problem.
    """
    if fits(found, expected) or (found == "wrapped messages" and "text" in expected):
        return  # JSON with messages in it is a text where most rows are texts; a file of such rows fits no layout
    if found == "garbled messages":
        raise BadRow(GARBLED)
    raise BadRow(TURNS if "transcript" in (found, *expected) and found in ("text", "transcript") else MISSING)


def _history(row: dict) -> Messages:
    """Alpaca's earlier turns: a list of [question, answer], or of messages."""
    value = decoded(row.get("history"))
    if is_empty(value):
        return []
    if kind(value) == "messages":
        return messages({"history": value}, "history")
    turns: Messages = []
    for pair in value if isinstance(value, list) else [value]:
        if not isinstance(pair, list) or [type(each) for each in pair] != [str, str]:
            raise BadRow(MISSING)
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def with_system(row: dict, prompt: Messages) -> Messages:
    """A prompt with the system turn of the row's own column, unless it begins with the same one."""
    systems = [text(row, name) for name in SYSTEM if not is_empty(row.get(name))]
    own = prompt[0]["content"] if prompt and prompt[0]["role"] == "system" else None
    if len({system.strip() for system in [*systems, *([own] if own else [])]}) > 1:
        raise BadRow(SYSTEMS)
    if not systems or own:
        return prompt
    return [{"role": "system", "content": systems[0]}, *(prompt if own is None else prompt[1:])]
