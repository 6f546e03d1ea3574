"""What a judge is asked: the map of fields of the protocol file, of which a configuration may change some.

eval/NAME.yaml: judge, request --judge.model, judge.request--> another protocol --> body of every request
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from focalpo.judging.protocol import EVAL, CheckedProtocol, JudgedProtocol, Protocol, load_protocol

LONGEST_REPLY = 4096
"""Tokens; the upper bound for a request that limits its reply by no field."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Fields that limit the tokens of a reply; reasoning models of OpenAI refuse the first (read, 400 of the API)."""


def body_of(protocol: JudgedProtocol, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The body of the request that shows the judge these messages."""
    return {"model": protocol.judge, "messages": messages, **protocol.request}


def asked_of(protocol: JudgedProtocol, model: str | None, changed: Mapping[str, Any]) -> JudgedProtocol:
    """The protocol with another judge (None: its own) and changed fields of its requests; null removes a field.

    Raises:
        ValueError: if a changed field is one that the protocol fills for every request.
    """
    if own := sorted({"model", "messages"} & changed.keys()):
        raise ValueError(f"judge.request.{own[0]} is filled by the protocol; set judge.model, or leave it out")
    request = {name: value for name, value in ({**protocol.request, **changed}).items() if value is not None}
    return replace(protocol, judge=model or protocol.judge, request=request)


def longest_reply(request: Mapping[str, Any]) -> int:
    """The most tokens of a reply to a request with these fields."""
    return next((request[name] for name in LIMITS if request.get(name)), LONGEST_REPLY)


def protocol_of(settings: Mapping[str, Any]) -> Protocol:
    """Load the protocol that a stage's settings name, with the judge and the requests that they give it."""
    return judged_as(load_protocol(EVAL / f"{settings['protocol']}.yaml"), settings.get("asked"))


def judged_as(protocol: Protocol, asked: Mapping[str, Any] | None) -> Protocol:
    """The protocol as `asked` of stage settings changes it: {"model": NAME or null, "request": {FIELD: value}}."""
    if not asked:
        return protocol
    assert not isinstance(protocol, CheckedProtocol), "what is checked by code asks no judge"
    return asked_of(protocol, asked["model"], asked["request"])
