"""The published layouts of preference data: their columns, and how a row becomes (prompt, chosen, rejected)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from focalpo.data.values import (
    DIFFERENT,
    MISSING,
    NO_PREFERENCE,
    TIE,
    BadRow,
    completion,
    is_empty,
    kind,
    last_answer,
    messages,
    prompt_key,
    shown,
    text,
    transcript,
)
from focalpo.stages.preferences import DRAW, is_nan, preference_of
from focalpo.stages.records import Messages

Parts = tuple[Messages, str, str]


@dataclass(frozen=True, slots=True)
class Schema:
    """A published layout: the kinds of value in its columns (`ANY`: all), and how a row becomes a pair.

    `optional` columns are read where they are: `input` by the layout, `system` and `history` before its prompt.
    """

    name: str
    columns: dict[str, set[str]]
    parts: Callable[[dict], Parts]
    optional: tuple[str, ...]


def recognise(rows: list[dict], source: str) -> Schema:
    """The schema that fits most rows, of equal ones the first; rows of other kinds are left to the conversion.

    Raises:
        ValueError: when none fits any row; the message lists the columns found and the known schemas.
    """
    kinds = {
        name: [kind(row.get(name)) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
    }
    fitting = {schema.name: _fitting(schema, kinds) for schema in SCHEMAS}
    best = max(SCHEMAS, key=lambda schema: fitting[schema.name])
    if fitting[best.name]:
        return best
    if "label" in kinds and ("completion" in kinds or "messages" in kinds):
        raise ValueError(f"{source}: rows of one answer with a label are no pairs; train on them by data=unpaired")
    columns = ", ".join(f"{shown(name)} ({_most_common(found)})" for name, found in kinds.items())
    known = "; ".join(f"[{schema.name}] {', '.join(schema.columns)}" for schema in SCHEMAS)
    raise ValueError(f"{source}: columns {columns} match no known schema; rename or convert them to one of: {known}")


def _fitting(schema: Schema, kinds: dict[str, list[str]]) -> int:
    """How many rows hold the kinds of value that a schema expects."""
    # A schema that does not read an existing prompt column is rejected: its pairs would lose the prompt.
    if (
        any(name in kinds and name not in schema.columns for name in PROMPTS)
        or not kinds.keys() >= schema.columns.keys()
    ):
        return 0
    expected = schema.columns.values()
    rows = zip(*(kinds[name] for name in schema.columns), strict=True)
    return sum(all(fits(found, wanted) for found, wanted in zip(row, expected, strict=True)) for row in rows)


def fits(found: str, expected: set[str]) -> bool:
    """Whether a kind of value is one of those that a column expects."""
    return found in expected or expected is ANY


def _most_common(kinds: list[str]) -> str:
    filled = [found for found in kinds if found != "empty"]
    return Counter(filled).most_common(1)[0][0] if filled else "empty"


def from_strings(row: dict) -> Parts:
    """Columns prompt, chosen and rejected are plain texts."""
    return ask(text(row, "prompt")), text(row, "chosen"), text(row, "rejected")


def from_instruction(row: dict) -> Parts:
    """An instruction with an optional input, as in Alpaca; chosen and rejected are plain texts."""
    return ask(_request(row)), text(row, "chosen"), text(row, "rejected")


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
    """The prompt is a list of messages; a completion is a text or one assistant message."""
    return messages(row, "prompt"), completion(row, "chosen"), completion(row, "rejected")


def from_conversations(row: dict) -> Parts:
    """As `from_chat_prompt`, with the prompt in ShareGPT's column."""
    return messages(row, "conversations"), completion(row, "chosen"), completion(row, "rejected")


def from_transcripts(row: dict) -> Parts:
    """Columns chosen and rejected are transcripts that differ only in the last Assistant turn (Anthropic/hh-rlhf)."""
    return same_prompt(transcript(text(row, "chosen")), transcript(text(row, "rejected")))


def from_judged(row: dict) -> Parts:
    """AlpacaEval annotations: above 1.5 if output_2 is better (see focalpo/stages/preferences.py)."""
    prompt, first, second = ask(_request(row)), text(row, "output_1"), text(row, "output_2")
    try:
        preference = preference_of(row.get("preference"))
    except ValueError:
        raise BadRow(NO_PREFERENCE) from None
    if is_nan(preference):
        raise BadRow(MISSING)
    if preference == DRAW:
        raise BadRow(TIE)
    return (prompt, second, first) if preference > DRAW else (prompt, first, second)


def ask(request: str) -> Messages:
    """A prompt that consists of one user turn."""
    return [{"role": "user", "content": request}]


def _request(row: dict) -> str:
    request = text(row, "instruction")
    return request if is_empty(row.get("input")) else f"{request}\n\n{text(row, 'input')}"


def same_prompt(better: Messages, worse: Messages) -> Parts:
    """Two dialogues that differ only in their last answer, as (prompt, chosen, rejected)."""
    prompt, chosen = last_answer(better)
    other_prompt, rejected = last_answer(worse)
    if prompt_key(prompt) != prompt_key(other_prompt):
        raise BadRow(DIFFERENT)
    return prompt, chosen, rejected


PROMPTS = ("prompt", "conversations")
TEXT, STRING, MESSAGES, TRANSCRIPT = {"text"}, {"text", "transcript"}, {"messages"}, {"transcript"}
# A preference of an unexpected kind is that row's problem, and says nothing about the layout.
ANY: set[str] = set()
SYSTEM = ("system", "system_prompt")
SCHEMAS = (
    Schema("plain", {"prompt": TEXT, "chosen": STRING, "rejected": STRING}, from_strings, (*SYSTEM, "history")),
    # HuggingFaceH4/ultrafeedback_binarized, princeton-nlp/llama3-ultrafeedback-armorm
    Schema(
        "prompt and dialogues",
        {"prompt": STRING, "chosen": MESSAGES, "rejected": MESSAGES},
        from_dialogues_with_prompt,
        SYSTEM,
    ),
    # trl-lib/ultrafeedback_binarized
    Schema("dialogues", {"chosen": MESSAGES, "rejected": MESSAGES}, from_dialogues, SYSTEM),
    Schema(
        "chat prompt",
        {"prompt": MESSAGES, "chosen": STRING | MESSAGES, "rejected": STRING | MESSAGES},
        from_chat_prompt,
        SYSTEM,
    ),
    # ShareGPT's preference layout, as LLaMA-Factory reads it
    Schema(
        "conversations",
        {"conversations": MESSAGES, "chosen": STRING | MESSAGES, "rejected": STRING | MESSAGES},
        from_conversations,
        SYSTEM,
    ),
    # Anthropic/hh-rlhf
    Schema("transcripts", {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT}, from_transcripts, SYSTEM),
    # AlpacaEval annotations
    Schema(
        "judged",
        {"instruction": STRING, "output_1": STRING, "output_2": STRING, "preference": ANY},
        from_judged,
        (*SYSTEM, "history", "input"),
    ),
    Schema(
        "instruction",
        {"instruction": STRING, "chosen": STRING, "rejected": STRING},
        from_instruction,
        (*SYSTEM, "history", "input"),
    ),
)
DECODED = frozenset(column for schema in SCHEMAS for column in schema.columns)
"""The columns in which message lists may be stored as JSON text."""
