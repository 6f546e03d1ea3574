"""Unpaired preferences: rows of one answer with a label, in TRL's format, which KTO trains on.

    prompt, completion, label     prompt is a text or messages, completion a text or one assistant message
    messages, label               the answer is the last turn

An answer becomes a `Pair` with only one side: chosen if its label is true, else rejected; the other side is empty.
"""

from collections.abc import Sequence

from focalpo.data.columns import check_columns, without
from focalpo.data.layouts import MESSAGES, STRING, SYSTEM, Parts, ask
from focalpo.data.schemas import Split, check_kind, check_texts, pairs_of, with_system
from focalpo.data.values import BadRow, completion, decoded, kind, last_answer, messages, shown, text
from focalpo.stages.records import Messages, Pair

NO_LABEL = "label that is neither true nor false"
COLUMNS = {"prompt": STRING | MESSAGES, "completion": STRING | MESSAGES}
DIALOGUE = {"messages": MESSAGES}
OPTIONAL = ("prompt_id", *SYSTEM)


def convert_unpaired(rows: list[dict], source: str, prefix: str, ignored: Sequence[str] = ()) -> Split:
    """Convert each row to an answer with its label; columns and message keys in `ignored` are dropped.

    Ids are as those of pairs (`focalpo.data.schemas.convert`).

    Raises:
        ValueError: when the columns are others, or a column that could matter is not read (see `check_columns`).
    """
    read = {*COLUMNS, *DIALOGUE}
    rows = [without({name: decoded(v) if name in read else v for name, v in row.items()}, ignored) for row in rows]
    columns = columns_of(rows, source)
    labels = check_columns(rows, {*columns, "label", *OPTIONAL}, source, ignored)
    pairs, bad = pairs_of(rows, prefix, lambda row: _sides(row, columns))
    return Split(source, pairs, "unpaired", bad, [shown(name) for name in (*labels, *ignored)], unpaired=True)


def columns_of(rows: list[dict], source: str) -> dict[str, set[str]]:
    """The columns of the prompt and the answer.

    Raises:
        ValueError: when there are none, or no labels.
    """
    found = dict.fromkeys(name for row in rows for name in row)
    for columns in (COLUMNS, DIALOGUE):
        if found.keys() >= {*columns, "label"}:
            return columns
    named = ", ".join(map(shown, found))
    raise ValueError(
        f"{source}: columns {named} are not those of single answers, prompt, completion, label or messages, label; "
        "rename them, or read pairs by data=file"
    )


def check_labels(pairs: Sequence[Pair], name: str, source: str) -> None:
    """Check that some answers of a split are desirable and some are not, once no step drops more of them.

    Raises:
        ValueError: when all have the same label.
    """
    desirable = sum(bool(pair.chosen) for pair in pairs)
    if desirable in (0, len(pairs)):
        label = str(bool(desirable)).lower()
        raise ValueError(
            f"{source}: the label of all {len(pairs)} {name} answers is {label}; add others, or change data.limit or "
            "data.test_fraction"
        )


def _sides(row: dict, columns: dict[str, set[str]]) -> Parts:
    for column, expected in columns.items():
        check_kind(kind(row.get(column)), expected)
    prompt, answer = _answered(row) if "completion" in columns else last_answer(messages(row, "messages"))
    prompt = with_system(row, prompt)
    check_texts(row, prompt, answer)
    label = row.get("label")
    if not isinstance(label, bool):
        raise BadRow(NO_LABEL)
    return (prompt, answer, "") if label else (prompt, "", answer)


def _answered(row: dict) -> tuple[Messages, str]:
    prompt = ask(text(row, "prompt")) if isinstance(row["prompt"], str) else messages(row, "prompt")
    return prompt, completion(row, "completion")
