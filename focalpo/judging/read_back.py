"""A judge's replies, found again in the records by the requests that answers and protocol make.

question, answer, protocol --> messages in both orders --> id of the request --> recorded attempt
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from focalpo.judging.arena_hard import labels
from focalpo.judging.protocol import (
    AlpacaProtocol,
    ArenaProtocol,
    ArenaTwoProtocol,
    JudgedProtocol,
    annotator_config,
    fill_template,
    prompt_files,
)
from focalpo.judging.recording import GOOD, read_attempts, request_id
from focalpo.judging.requests import body_of
from focalpo.judging.shown import MESSAGE
from focalpo.judging.thinking import spoken
from focalpo.stages.records import Completion, Question

Messages = list[dict[str, str]]
Replies = Mapping[str, dict]


def read_replies(records: Path) -> dict[str, dict]:
    """The recorded attempts that gave a good reply, by the request's id.

    Raises:
        ValueError: if a line of the records is not an attempt.
    """
    return {attempt["id"]: attempt for attempt in read_attempts(records) if attempt["outcome"] == GOOD}


def requests_of(question: Question, answer: Completion, protocol: JudgedProtocol) -> Iterator[tuple[bool, Messages]]:
    """The messages that show the judge an answer and the reference: in both orders, and whether the answer is first.

    AlpacaEval's library draws one of the two orders; Arena-Hard's games take both, with the reference first in game 1.
    """
    asked = question.prompt[-1]["content"]
    for first in (False, True):
        one, two = (answer.text, question.reference) if first else (question.reference, answer.text)
        if isinstance(protocol, AlpacaProtocol):
            texts = {"instruction": asked, "output_1": one, "output_2": two}
            parts = MESSAGE.findall(_template(protocol.annotator))
            yield first, [{"role": role, "content": fill_template(part.strip(), texts)} for role, part in parts]
        else:
            category = question.id.rpartition("/")[0] if isinstance(protocol, ArenaTwoProtocol) else ""
            turn = protocol.user_template.format(question=asked, answer_1=one, answer_2=two)
            system = _system(prompt_files(protocol)[category])
            yield first, [{"role": "system", "content": system}, {"role": "user", "content": turn}]


def attempt_at(messages: Messages, protocol: JudgedProtocol, replies: Replies) -> dict | None:
    """The attempt with the good reply to these messages; None where there is none."""
    return replies.get(request_id(body_of(protocol, messages)))


def said_of(attempt: dict) -> str:
    """What the judge said in a reply, without its thoughts."""
    return spoken(attempt["reply"]["choices"][0]["message"].get("content") or "")


def turns_of(messages: Messages, protocol: ArenaProtocol, replies: Replies) -> list[str]:
    """What the judge said in a game's first turn and, where that has no label, in its second."""
    said: list[str] = []
    while len(said) < 2 and not (said and labels(said[-1], protocol)):
        attempt = attempt_at(messages, protocol, replies)
        if attempt is None:
            break
        said.append(said_of(attempt))
        turns = [{"role": "assistant", "content": said[-1]}, {"role": "user", "content": protocol.second_turn}]
        messages = [*messages, *turns]
    return said


@cache
def _template(annotator: Path) -> str:
    (settings,) = annotator_config(annotator).values()
    return Path(settings["prompt_template"]).read_text()


@cache
def _system(file: Path) -> str:
    return file.read_text().strip()
