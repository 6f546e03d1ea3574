"""Rows in any published layout -> pairs of one schema.

A row is a dict of columns, from a file or the hub. A `Split` holds the pairs by source row number, and the rows that
could not be converted. Row numbers count from 1, so in a JSON-lines file they are line numbers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from focalpo.stages.records import Messages, Pair

MISSING = "missing or ill-typed value"
TURNS = "turns are not [system,] user, assistant, ..., user, answer"
DIFFERENT = "different prompts in chosen, rejected or the prompt column"
OUT_OF_RANGE = "preference outside 1..2"
TIE = "tied preference (1.5)"

Parts = tuple[Messages, str, str]


@dataclass(frozen=True, slots=True)
class Split:
    """One split before validation: pairs by source row number; `bad` maps a problem to source rows."""

    source: str
    pairs: dict[int, Pair]
    schema: str = "pairs"
    bad: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Schema:
    """A published layout: the kinds of value in its columns, and how a row becomes (prompt, chosen, rejected)."""

    name: str
    columns: dict[str, set[str]]
    parts: Callable[[dict], Parts]


class BadRow(Exception):
    """A row cannot be converted to a pair; the only argument is the problem."""


def prompt_key(prompt: Messages) -> tuple[tuple[str, str], ...]:
    """A key that is equal for equal prompts: roles and texts, without outer white space, which chat templates strip."""
    return tuple((message["role"], message["content"].strip()) for message in prompt)


def convert(rows: list[dict], source: str, prefix: str) -> Split:
    """Recognise the schema of `rows` and convert each row to a pair.

    The id of a pair is its `prompt_id` if the data has one (with the row number appended if repeated), else `prefix`
    and row number; ids depend on the source alone.

    Raises:
        ValueError: when the columns match no schema.
    """
    schema = recognise(rows, source)
    pairs: dict[int, Pair] = {}
    bad: dict[str, list[int]] = {}
    names: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            prompt, chosen, rejected = schema.parts(row)
        except BadRow as problem:
            bad.setdefault(problem.args[0], []).append(number)
            continue
        name = str(row.get("prompt_id") or f"{prefix}-{number:06d}")
        if name in names:
            name = f"{name}-{number:06d}"
        names.add(name)
        pairs[number] = Pair(name, prompt, chosen, rejected)
    return Split(source, pairs, schema.name, bad)


def recognise(rows: list[dict], source: str) -> Schema:
    """The schema whose columns exist and hold the expected kinds, judged by the first non-null value of each column.

    Raises:
        ValueError: when none matches; the message lists the columns found and the known schemas.
    """
    kinds = dict.fromkeys((column for row in rows for column in row), "empty")
    for row in rows:
        for column, value in row.items():
            if kinds[column] == "empty":
                kinds[column] = kind(value)
    for schema in SCHEMAS:
        # A schema that does not read an existing prompt column is rejected: its pairs would lose the prompt.
        reads_prompt = ("prompt" in kinds) == ("prompt" in schema.columns)
        if reads_prompt and all(kinds.get(column) in expected for column, expected in schema.columns.items()):
            return schema
    columns = ", ".join(f"{column} ({what})" for column, what in kinds.items())
    known = "; ".join(f"[{schema.name}] {', '.join(schema.columns)}" for schema in SCHEMAS)
    raise ValueError(f"{source}: columns {columns} match no known schema; rename or convert them to one of: {known}")


def kind(value: object) -> str:
    """The kind of a value, as named in the table of schemas."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        return "transcript" if value.startswith("\n\nHuman:") else "text"
    if isinstance(value, list):
        return "messages"
    return "number" if isinstance(value, int | float) else type(value).__name__


def from_strings(row: dict) -> Parts:
    """Columns prompt, chosen and rejected are plain texts."""
    return ask(text(row, "prompt")), text(row, "chosen"), text(row, "rejected")


def from_instruction(row: dict) -> Parts:
    """An instruction with an optional input, as in Alpaca; chosen and rejected are plain texts."""
    request = text(row, "instruction")
    if row.get("input"):
        request += "\n\n" + text(row, "input")
    return ask(request), text(row, "chosen"), text(row, "rejected")


def from_dialogues(row: dict) -> Parts:
    """Columns chosen and rejected are whole dialogues that differ only in the last turn."""
    return same_prompt(messages(row, "chosen"), messages(row, "rejected"))


def from_dialogues_with_prompt(row: dict) -> Parts:
    """As `from_dialogues`; the prompt column must repeat a user turn, and the prompt is taken from the dialogues."""
    prompt, chosen, rejected = from_dialogues(row)
    if ("user", text(row, "prompt").strip()) not in prompt_key(prompt):
        raise BadRow(DIFFERENT)
    return prompt, chosen, rejected


def from_chat_prompt(row: dict) -> Parts:
    """The prompt is a list of messages; a completion is a text or a list of one assistant message."""
    return messages(row, "prompt"), completion(row, "chosen"), completion(row, "rejected")


def from_transcripts(row: dict) -> Parts:
    """Columns chosen and rejected are transcripts that differ only in the last Assistant turn (Anthropic/hh-rlhf)."""
    return same_prompt(transcript(text(row, "chosen")), transcript(text(row, "rejected")))


def from_judged(row: dict) -> Parts:
    """AlpacaEval annotations: preference in [1, 2], above 1.5 if output_2 is better."""
    prompt, first, second = ask(text(row, "instruction")), text(row, "output_1"), text(row, "output_2")
    preference: Any = row.get("preference")
    if kind(preference) != "number":
        raise BadRow(MISSING)
    if not 1 <= preference <= 2:
        raise BadRow(OUT_OF_RANGE)
    if preference == 1.5:
        raise BadRow(TIE)
    return (prompt, second, first) if preference > 1.5 else (prompt, first, second)


def text(row: dict, column: str) -> str:
    """The string in a column."""
    value = row.get(column)
    if not isinstance(value, str):
        raise BadRow(MISSING)
    return value


def messages(row: dict, column: str) -> Messages:
    """The list of messages in a column, reduced to role and content (datasets add name, tool_calls and more)."""
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadRow(MISSING)
    return [{"role": text(message, "role"), "content": text(message, "content")} for message in value]


def completion(row: dict, column: str) -> str:
    """The answer in a column that holds a text or a list of one assistant message."""
    if isinstance(row.get(column), str):
        return row[column]
    before, answer = last_answer(messages(row, column))
    if before:
        raise BadRow(TURNS)
    return answer


def ask(request: str) -> Messages:
    """A prompt that consists of one user turn."""
    return [{"role": "user", "content": request}]


def transcript(dialogue: str) -> Messages:
    """The turns of a transcript: each is a blank line, the speaker, a colon and the text."""
    opening, *turns = re.split(r"\n\n(Human|Assistant):", dialogue)
    if opening.strip():
        raise BadRow(TURNS)
    roles = {"Human": "user", "Assistant": "assistant"}
    speakers, texts = turns[::2], turns[1::2]
    return [{"role": roles[who], "content": turn.strip()} for who, turn in zip(speakers, texts, strict=True)]


def last_answer(dialogue: Messages) -> tuple[Messages, str]:
    """A dialogue split into the turns before its last answer, and that answer."""
    if not dialogue or dialogue[-1]["role"] != "assistant":
        raise BadRow(TURNS)
    return dialogue[:-1], dialogue[-1]["content"]


def same_prompt(better: Messages, worse: Messages) -> Parts:
    """Two dialogues that differ only in their last answer, as (prompt, chosen, rejected)."""
    prompt, chosen = last_answer(better)
    other_prompt, rejected = last_answer(worse)
    if prompt_key(prompt) != prompt_key(other_prompt):
        raise BadRow(DIFFERENT)
    return prompt, chosen, rejected


TEXT, STRING, MESSAGES, TRANSCRIPT = {"text"}, {"text", "transcript"}, {"messages"}, {"transcript"}
SCHEMAS = (
    Schema("plain", {"prompt": TEXT, "chosen": STRING, "rejected": STRING}, from_strings),
    # HuggingFaceH4/ultrafeedback_binarized, princeton-nlp/llama3-ultrafeedback-armorm
    Schema(
        "prompt and dialogues",
        {"prompt": STRING, "chosen": MESSAGES, "rejected": MESSAGES},
        from_dialogues_with_prompt,
    ),
    # trl-lib/ultrafeedback_binarized
    Schema("dialogues", {"chosen": MESSAGES, "rejected": MESSAGES}, from_dialogues),
    Schema(
        "chat prompt",
        {"prompt": MESSAGES, "chosen": STRING | MESSAGES, "rejected": STRING | MESSAGES},
        from_chat_prompt,
    ),
    # Anthropic/hh-rlhf
    Schema("transcripts", {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT}, from_transcripts),
    # AlpacaEval annotations
    Schema(
        "judged",
        {"instruction": STRING, "output_1": STRING, "output_2": STRING, "preference": {"number"}},
        from_judged,
    ),
    Schema("instruction", {"instruction": STRING, "chosen": STRING, "rejected": STRING}, from_instruction),
)
