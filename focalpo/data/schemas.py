"""Rows of any published layout -> pairs of one shape.

A row is what a file or the hub holds (a dict of columns); a `Split` holds the pairs under their source row numbers, and
the rows that could not become pairs. Row numbers count from 1, so that of a JSON-lines file is its line number.
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
    """One split on its way to training: pairs under their source row numbers; `bad` is problem -> source rows."""

    source: str
    pairs: dict[int, Pair]
    schema: str = "pairs"
    bad: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Schema:
    """A published layout: what its columns hold, and how one row becomes (prompt, chosen, rejected)."""

    name: str
    columns: dict[str, set[str]]
    parts: Callable[[dict], Parts]


class BadRow(Exception):
    """This row cannot become a pair; its only argument is the problem."""


def prompt_key(prompt: Messages) -> tuple[tuple[str, str], ...]:
    """What makes two prompts the same: roles and texts; outer white space is ignored, as chat templates strip it."""
    return tuple((message["role"], message["content"].strip()) for message in prompt)


def convert(rows: list[dict], source: str, prefix: str) -> Split:
    """Recognise the schema of `rows` and turn each into a pair.

    A pair is named by its `prompt_id` where the data has one (a repeated one gets its row number behind it), else by
    `prefix` and row number: names depend on the source alone.

    Raises:
        ValueError: when the columns fit no schema.
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
    """The schema whose columns are there and hold what it expects, judged by the first value of each column.

    Raises:
        ValueError: when none fits; the message lists the columns found and the schemas known.
    """
    found = dict.fromkeys((column for row in rows for column in row), "empty")
    for row in rows:
        for column, value in row.items():
            if found[column] == "empty":
                found[column] = kind(value)
    for schema in SCHEMAS:
        # A prompt column that a schema would not read is never ignored: its pairs would have lost their prompt.
        reads_prompt = ("prompt" in found) == ("prompt" in schema.columns)
        if reads_prompt and all(found.get(column) in kinds for column, kinds in schema.columns.items()):
            return schema
    columns = ", ".join(f"{column} ({what})" for column, what in found.items())
    known = "; ".join(f"[{schema.name}] {', '.join(schema.columns)}" for schema in SCHEMAS)
    raise ValueError(f"{source}: columns {columns} fit no known schema; rename or convert them to one of: {known}")


def kind(value: object) -> str:
    """What a value is, in the words of the schema table."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        return "transcript" if value.startswith("\n\nHuman:") else "text"
    if isinstance(value, list):
        return "messages"
    return "number" if isinstance(value, int | float) else type(value).__name__


def from_strings(row: dict) -> Parts:
    """prompt, chosen and rejected are plain texts."""
    return ask(text(row, "prompt")), text(row, "chosen"), text(row, "rejected")


def from_instruction(row: dict) -> Parts:
    """An instruction with an optional input, Alpaca fashion; chosen and rejected are plain texts."""
    request = text(row, "instruction")
    if row.get("input"):
        request += "\n\n" + text(row, "input")
    return ask(request), text(row, "chosen"), text(row, "rejected")


def from_dialogues(row: dict) -> Parts:
    """chosen and rejected are whole dialogues that differ in the last turn only."""
    return same_prompt(messages(row, "chosen"), messages(row, "rejected"))


def from_dialogues_with_prompt(row: dict) -> Parts:
    """As `from_dialogues`; the prompt column repeats a user turn and is checked, the dialogues are believed."""
    prompt, chosen, rejected = from_dialogues(row)
    if ("user", text(row, "prompt").strip()) not in prompt_key(prompt):
        raise BadRow(DIFFERENT)
    return prompt, chosen, rejected


def from_chat_prompt(row: dict) -> Parts:
    """The prompt is a message list; a completion is a text or a list of one assistant message."""
    return messages(row, "prompt"), completion(row, "chosen"), completion(row, "rejected")


def from_transcripts(row: dict) -> Parts:
    """chosen and rejected are transcripts that differ in the last Assistant turn only (Anthropic/hh-rlhf)."""
    return same_prompt(transcript(text(row, "chosen")), transcript(text(row, "rejected")))


def from_judged(row: dict) -> Parts:
    """AlpacaEval annotations: preference in [1, 2], above 1.5 when output_2 is the better one."""
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
    """The message list in a column, stripped to role and content (datasets carry name, tool_calls and more)."""
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadRow(MISSING)
    return [{"role": text(message, "role"), "content": text(message, "content")} for message in value]


def completion(row: dict, column: str) -> str:
    """The answer in a column that holds a text or one assistant message."""
    if isinstance(row.get(column), str):
        return row[column]
    before, answer = last_answer(messages(row, column))
    if before:
        raise BadRow(TURNS)
    return answer


def ask(request: str) -> Messages:
    """A prompt of one user turn."""
    return [{"role": "user", "content": request}]


def transcript(dialogue: str) -> Messages:
    """The turns of a dialogue written as blank line, speaker, colon, text."""
    opening, *turns = re.split(r"\n\n(Human|Assistant):", dialogue)
    if opening.strip():
        raise BadRow(TURNS)
    roles = {"Human": "user", "Assistant": "assistant"}
    speakers, texts = turns[::2], turns[1::2]
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(speakers, texts, strict=True)]


def last_answer(dialogue: Messages) -> tuple[Messages, str]:
    """A dialogue as what came before, and the assistant's last words."""
    if not dialogue or dialogue[-1]["role"] != "assistant":
        raise BadRow(TURNS)
    return dialogue[:-1], dialogue[-1]["content"]


def same_prompt(better: Messages, worse: Messages) -> Parts:
    """Two dialogues that part at their last answer."""
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
