"""What a chat template writes around the texts of a conversation, learned once for each sequence of roles.

    messages with marked texts --chat template--> the template's own pieces       once per sequence of roles
    messages --chat template--> text == pieces with the messages' texts between   checked for every conversation

So a template that drops, moves, rewrites or repeats a text is found whatever it looks like, and what is its own (a
default system turn, a date, tokens of control) is known.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from focalpo.stages.records import Messages

# What rendering raises: Jinja's own errors, and those of the expressions in a template ("a" + none, a missing key).
RENDER_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
ROLES = (("user",), ("system", "user"), ("user", "assistant", "user"))
# Two moments that differ in every part of a date, down to the second, the weekday and AM or PM.
MOMENTS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2022, 11, 17, 18, 29, 30))
CHANCE = re.compile(r"""[|'"]\s*random\b|\blipsum\b""")
OUTER = "\t\n\t"  # outer white space of a marked text; no template writes it itself
MARK = re.compile(r"(\t\n\t)?zq(\d+)qz(\t\n\t)?")
TAG = re.compile(r"<<?/?[^<>\s]+>>?|\[/?[^\[\]\s]+\]")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The pieces that a template writes before, between and after the texts.

    `turns[i]` is the number of the message whose text follows `pieces[i]`; `kept[i]` says whether its outer white space
    on the left and on the right is kept.
    """

    roles: tuple[str, ...]
    pieces: tuple[str, ...]
    turns: tuple[int, ...]
    kept: tuple[tuple[bool, bool], ...]

    def text(self, contents: Sequence[str]) -> str:
        """The conversation with these texts, as the template should write it."""
        parts = [self.pieces[0]]
        for turn, (left, right), piece in zip(self.turns, self.kept, self.pieces[1:], strict=True):
            content = contents[turn]
            content = content if left else content.lstrip()
            parts += [content if right else content.rstrip(), piece]
        return "".join(parts)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, opens: bool, **context: object) -> str:
    """The conversation as text; `opens` adds the header of the assistant's next turn.

    Raises:
        ValueError: when the template refuses the messages or fails on them.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens, **context)
    except RENDER_ERRORS as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"the chat template refuses it: {lines[0]}") from error


def check_template(tokenizer: PreTrainedTokenizerBase) -> list[Skeleton]:
    """Check that the chat template can be rendered, and gives the same text on another day; return what it writes.

    Raises:
        ValueError: when there is none, when it cannot render a user's message, reads the clock or draws random numbers.
    """
    name = f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError(f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; set model.chat_template")
    found, refused = [], []
    for roles in ROLES:
        try:
            found += [learn(tokenizer, roles, opens=True), learn(tokenizer, (*roles, "assistant"), opens=False)]
        except UnsteadyTemplate as error:
            raise ValueError(f"{name} {error}") from error
        except ValueError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                line = error.__cause__.lineno
                raise ValueError(f"{name} is no Jinja (line {line}: {error.__cause__}); correct it") from error
            refused.append(str(error))
    if not found:
        raise ValueError(f"{name} cannot be used ({refused[0]}); set model.chat_template to a Jinja file that can")
    return found


class UnsteadyTemplate(ValueError):
    """A template whose text depends on more than the messages."""


def learn(tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], opens: bool) -> Skeleton:
    """Learn what the template writes around the texts of messages with these roles.

    Raises:
        ValueError: when the template refuses the roles, loses, repeats or does not separate turns, reads the clock
            (`UnsteadyTemplate`) or draws random numbers (the same).
    """
    if CHANCE.search(tokenizer.chat_template):
        raise UnsteadyTemplate("draws random numbers; take `random` and `lipsum` out of it (model.chat_template)")
    marked = [{"role": role, "content": f"{OUTER}zq{turn}qz{OUTER}"} for turn, role in enumerate(roles)]
    text, other = (render(tokenizer, marked, opens, strftime_now=moment.strftime) for moment in MOMENTS)
    if text != other:
        raise UnsteadyTemplate(
            "reads the clock, so that training, generation and serving would see other prompts every day; "
            "use a Jinja file with the date written out in place of strftime_now (model.chat_template)"
        )
    found = list(MARK.finditer(text))
    turns = tuple(int(match[2]) for match in found)
    for turn, role in enumerate(roles):
        if turns.count(turn) != 1:
            how = "leaves out" if turn not in turns else "repeats"
            raise ValueError(f"the chat template {how} a turn: {turn + 1} ({role})")
    starts, ends = [match.start() for match in found], [match.end() for match in found]
    pieces = tuple(text[start:end] for start, end in zip([0, *ends], [*starts, len(text)], strict=True))
    for first, second, piece in zip(turns, turns[1:], pieces[1:], strict=False):
        if {roles[first], roles[second]} == {"user", "assistant"} and not piece.strip():
            raise ValueError(f"the chat template does not mark whose turn it is: {second + 1} ({roles[second]})")
    return Skeleton(roles, pieces, turns, tuple((match[1] is not None, match[3] is not None) for match in found))


def role_markers(skeletons: Sequence[Skeleton], control: Sequence[str]) -> re.Pattern | None:
    """A pattern that finds the plain text that stands for a role; None if tokens of control (their texts) mark all.

    It is the line before or after a text, if that looks like markup; what begins like a word counts only where a line
    begins. What touches a token of control is part of its mark, and a bare word, such as "user", is none.
    """
    split = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")
    lines = set()
    for skeleton in skeletons:
        plain = [split.split(piece) for piece in skeleton.pieces]
        lines |= {_line(parts[-1], last=True) for parts in plain[:-1]}
        lines |= {_line(parts[0], last=False) for parts in plain[1:]}
    markers = sorted({marker for line in lines for marker in _markers(line)}, key=len, reverse=True)
    if not markers:
        return None
    starts = (r"^[ \t]*" if marker[0].isalnum() else "" for marker in markers)
    return re.compile("|".join(start + re.escape(marker) for start, marker in zip(starts, markers, strict=True)), re.M)


def _line(text: str, last: bool) -> str:
    lines = text.strip().splitlines() or [""]
    return lines[-1 if last else 0].strip()


def _markers(line: str) -> Iterator[str]:
    tags = TAG.findall(line)
    if tags:
        yield from tags
    elif len(line) > 1 and not line.replace(" ", "").isalnum():
        yield line
