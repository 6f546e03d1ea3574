"""Values of a row's columns -> texts and messages, or the reason why a row is bad.

text        "Name a river."
messages    [{"role": "user", "content": "..."}]; role and content may be called from and value (human, gpt); a
            content may be a list of text parts; the list may be stored as JSON text
transcript  "\\n\\nHuman: ...\\n\\nAssistant: ..."
"""

import re
from typing import Any

from focalpo.data.labels import is_label
from focalpo.stages.preferences import is_nan, is_number
from focalpo.stages.reading import parse_json
from focalpo.stages.records import Messages

MISSING = "missing or ill-typed value"
TURNS = "turns are not [system,] user, assistant, ..., user, answer"
DIFFERENT = "different prompts in chosen, rejected or the prompt column"
SYSTEMS = "two different system turns"
PARTS = "content with a part that is not text"
GARBLED = "text that looks like a list of messages and is no JSON"
UNENCODABLE = "text that no encoder can read (a lone surrogate or a NUL byte)"
NO_PREFERENCE = "preference that is no number"
TIE = "tied preference"

UNREADABLE = "\udcff"
"""Stands for a text that is not UTF-8, where a reader can still name its row."""
ROLE_AND_CONTENT = (("role", "content"), ("from", "value"))
MESSAGE_KEYS = frozenset(key for keys in ROLE_AND_CONTENT for key in keys)
SPEAKERS = ("system", "user", "assistant", "human", "gpt")
ROLES = {"human": "user", "gpt": "assistant"}
PRINTED = re.compile(r"""\s*\[\s*\{\s*(["'])(role|content|from|value)\1\s*:""")


class BadRow(Exception):
    """A row cannot be converted to a pair; the only argument is the problem."""


def unread_key(key: object) -> str:
    """The problem of a message with a key that is not read."""
    return f"message key {shown(key)} is not read: fix, or name it in data.ignore_columns"


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, NaN, an empty text, or a list or object of such values only."""
    rest = [value]
    while rest:  # no recursion: a file may nest deeper than Python's stack
        each = rest.pop()
        if isinstance(each, dict):
            rest += each.values()
        elif isinstance(each, list | tuple):
            rest += each
        elif not (each is None or each == "" or is_nan(each)):
            return False
    return True


def kind(value: object) -> str:
    """The kind of a value, as named in the table of schemas."""
    if value is None or is_nan(value):
        return "empty"
    if isinstance(value, str):
        if value.startswith("\n\nHuman:"):
            return "transcript"
        return _kind_of_text(value)
    if isinstance(value, dict) and _keys(value):
        return "messages"
    if isinstance(value, list):
        return "messages" if all(isinstance(each, dict) for each in value) else "list"
    return "number" if is_number(value) else {"bool": "boolean"}.get(type(value).__name__, type(value).__name__)


def decoded(value: object) -> object:
    """The messages, for JSON text that holds a list of them or one; any other value as it is, other JSON text too."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        found = parse_json(value)
    except ValueError:
        return value
    if isinstance(found, dict):
        keys = _keys(found)
        return found if keys and found.keys() == {*keys} and found[keys[0]] in SPEAKERS else value
    return found if found and isinstance(found, list) and all(_keys(each) for each in found) else value


def text(row: dict, column: str) -> str:
    """The string in a column."""
    value = row.get(column)
    if not isinstance(value, str):
        raise BadRow(MISSING)
    return value


def messages(row: dict, column: str) -> Messages:
    """The messages in a column."""
    value = row.get(column)
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRow(MISSING)
    return [_message(entry) for entry in entries]


def completion(row: dict, column: str) -> str:
    """The answer in a column that holds a text or one assistant message."""
    if isinstance(row.get(column), str):
        return row[column]
    before, answer = last_answer(messages(row, column))
    if before:
        raise BadRow(TURNS)
    return answer


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


def prompt_key(prompt: Messages) -> tuple[tuple[str, str], ...]:
    """A key that is equal for equal prompts: roles and texts, without outer white space, which chat templates strip."""
    return tuple((message["role"], message["content"].strip()) for message in prompt)


def shown(name: object) -> str:
    """A name as a message can print it, whatever it holds."""
    return str(name).encode("unicode_escape" if "\n" in str(name) else "utf-8", "backslashreplace").decode()


def _message(entry: dict) -> dict[str, str]:
    keys = _keys(entry) or ROLE_AND_CONTENT[0]
    for key, value in entry.items():
        if key not in keys and not is_empty(value) and not is_label(key, [value]):
            raise BadRow(unread_key(key))
    role = text(entry, keys[0])
    return {"role": ROLES.get(role, role) if keys[0] == "from" else role, "content": _content(entry.get(keys[1]))}


def _keys(entry: object) -> tuple[str, str] | None:
    """The keys of a message that hold its role and its content; None if it has neither pair of names."""
    for keys in ROLE_AND_CONTENT:
        if isinstance(entry, dict) and entry.keys() >= {*keys} and entry[keys[0]] is not None:
            return keys
    return None


def _content(value: Any) -> str:
    """A text, or the text of a list of text parts, joined as chat templates do: without a separator."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise BadRow(MISSING)
    return "".join(_part(part) for part in value)


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        if all(is_empty(value) for key, value in part.items() if key not in ("type", "text")):
            return part["text"]
    raise BadRow(PARTS)


def _kind_of_text(value: str) -> str:
    """The kind of a text: garbled messages are printed as a list and no JSON, wrapped ones stand inside other JSON."""
    if not value.lstrip().startswith(("[", "{", '"')):
        return "text"
    try:
        rest = [parse_json(value)]
    except ValueError:
        printed = PRINTED.match(value) and any(all(key in value for key in keys) for keys in ROLE_AND_CONTENT)
        return "garbled messages" if printed else "text"
    while rest:
        each = rest.pop()
        keys = _keys(each)
        if keys and each[keys[0]] in SPEAKERS:
            return "wrapped messages"
        if isinstance(each, dict | list):
            rest += each.values() if isinstance(each, dict) else each
        elif isinstance(each, str) and each.startswith("[{"):
            rest += [found] if (found := decoded(each)) != each else []
    return "text"
