"""What came of one request to a judge: a usable reply, or what is wrong, whether to ask again, and what to do."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from focalpo.judging.keys import without_key
from focalpo.judging.pacing import retry_after, used_up
from focalpo.judging.recording import GOOD

RETRIED_STATUSES = {408, 409, 425, 429}
"""In addition to every status of 500 and above."""
REFUSALS = {
    401: "check the key",
    402: "pay for more",
    403: "check the key's permissions",
    404: "check the address and the model's name (judge.model), it may be retired",
    410: "name another model by judge.model",
}
MOST_BYTES = 16 << 20
"""A judgement with log-probs has some kilobytes; a longer body is no judgement, and may have no end."""
OTHER_JUDGE = "name a judge that gives log-probs, or use judge=openai_reasoning, whose protocol needs none,"
TOO_LONG = re.compile(r"context.?(length|window|size)|maximum context|prompt is too long", re.IGNORECASE)
"""In refusals of one long request, which name its limit but say nothing about the others."""

Check = Callable[[dict], str | None]
"""Returns what is wrong with a reply, or None if it holds a judgement."""


@dataclass(slots=True)
class Attempt:
    """One call: its outcome and reply, whether it may be repeated, whether it was one too many, the seconds for which
    nobody should ask, the remedy if it keeps failing, and the seconds it took."""

    outcome: str
    reply: dict | str = ""
    retry: bool = True
    refused: bool = False
    pause: float = 0.0
    remedy: str | None = None
    seconds: float = 0.0


def read_response(response: httpx2.Response, key: str, asked: dict, check: Check) -> Attempt:
    """Read a streamed response to a request with the body `asked`."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            return Attempt(f"a reply of more than {MOST_BYTES >> 20} MiB")
    text = without_key(body.decode(errors="replace"), key)
    found = read_status(response.status_code, text, asked) or _read_reply(text, check)
    if response.status_code != 200:
        found.pause = retry_after(response.headers)
    else:
        found.pause = used_up(response.headers, tokens_of(found.reply))
    return found


def read_status(status: int, text: str, asked: dict) -> Attempt | None:
    """What a response with this status says about the request; None if it is a reply."""
    if status == 200:
        return None
    outcome = f"HTTP {status}: {' '.join(text.split())[:200]}"
    if status in REFUSALS:
        return Attempt(outcome, text, retry=False, remedy=REFUSALS[status])
    if status == 429 and "insufficient_quota" in text:
        return Attempt("the quota is used up", text, retry=False, remedy="raise it")
    if status in (400, 422) and (remedy := _remedy(text, asked)):
        return Attempt(outcome, text, retry=False, remedy=remedy)
    return Attempt(outcome, text, status >= 500 or status in RETRIED_STATUSES, refused=status == 429)


def read_body(reply: Any, check: Check) -> Attempt:
    """What a parsed reply holds."""
    return Attempt(_malformed(reply) or check(reply) or GOOD, reply)


def tokens_of(reply: Any) -> int:
    """The tokens that a reply says it took; 1 if it does not say."""
    try:
        return int(reply["usage"]["total_tokens"])
    except (KeyError, IndexError, TypeError, ValueError):
        return 1


def _read_reply(text: str, check: Check) -> Attempt:
    try:
        reply = json.loads(text, parse_constant=_refuse_nan)
    except (ValueError, RecursionError):  # RecursionError: endless brackets
        return Attempt("garbled JSON", text)
    return read_body(reply, check)


def _remedy(text: str, asked: dict) -> str | None:
    """What to do about a refusal that names the model or a field, which every other request has too; else None."""
    try:
        error = json.loads(text)["error"]
        message, parameter = str(error["message"]), str(error.get("param"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message, parameter = text, ""
    if TOO_LONG.search(message):
        return None
    fields = [name for name in asked if name not in ("model", "messages")]
    named = [name for name in fields if name == parameter.partition(".")[0]]
    named += [name for name in fields if re.search(rf"\b{re.escape(name)}\b", message)]
    if named and "logprobs" in named[0]:
        return OTHER_JUDGE
    if named:
        return f"change {named[0]} by +judge.request.{named[0]}=VALUE, or leave it out by =null,"
    if parameter == "model" or str(asked.get("model")) in message:
        return REFUSALS[404]
    return None


def _refuse_nan(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _malformed(reply: Any) -> str | None:
    # alpaca_eval reads these fields unchecked: a missing one would end in a traceback instead of a retry.
    try:
        if reply["choices"][0]["message"]["role"] != "assistant":
            return "no assistant's message in the reply"
    except (KeyError, IndexError, TypeError):
        error = reply.get("error") if isinstance(reply, dict) else None
        said = f": {' '.join(str(error).split())[:200]}" if error else ""
        return f"no assistant's message in the reply{said}"
    try:
        counted = reply["usage"]["total_tokens"] >= 0
    except (KeyError, TypeError):
        counted = False
    return None if counted else "no token count (usage) in the reply"
