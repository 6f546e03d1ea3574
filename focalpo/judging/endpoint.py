"""A judge behind an OpenAI-compatible endpoint: requests in, usable replies out, each paid for once.

    openai.OpenAI (ours or alpaca_eval's) --> transport --> recording, else network with retries --> check --> reply

The custom transport gives alpaca_eval's own client and the Arena-Hard games one path: the recording, the retries, the
connection pool and the counts. A reply that fails the caller's check is retried like a failed call.
"""

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

from focalpo.judging.price import FREE, BudgetError, Price, Spending, attempt_usd
from focalpo.judging.recording import GOOD, Recording, read_attempts, request_id

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0
RETRIED_STATUSES = {408, 409, 425, 429}
"""In addition to every status of 500 and above."""
NO_KEY = "none"
"""Sent to a local server, because the OpenAI client requires a key."""
SHORTEST_SECRET = 8
"""Characters. A shorter key, such as `x` or `token`, is a local server's placeholder and may occur in any reply."""
REFUSALS = {401: "check the key", 403: "check the key's permissions", 404: "check the address and the model's name"}

Check = Callable[[dict], str | None]
"""Returns what is wrong with a reply, or None if it holds a judgement."""


class JudgeError(ValueError):
    """One judgement failed; the others can continue."""


class EndpointError(ValueError):
    """The endpoint cannot be used at all; no further request is sent to it."""


@dataclass(slots=True)
class Counts:
    """What an endpoint did: network calls, retries, replies from the recording, judgements given up."""

    calls: int = 0
    retried: int = 0
    replayed: int = 0
    failed: int = 0


class Endpoint:
    """An OpenAI-compatible server with a recording of all its replies; with `base_url=None` only the recording.

    Raises:
        ValueError: if the address is invalid, the key's environment variable is unset, or the recording is unreadable.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key_env: str | None,
        concurrency: int,
        timeout_seconds: float,
        max_attempts: int,
        records: Path,
        price: Price = FREE,
        budget_usd: float | None = None,
    ) -> None:
        self.name = base_url or "replay"
        self.concurrency = concurrency
        self.counts = Counts()
        self.served: set[str] = set()  # the models that the replies name, which may not be the one that is asked for
        self._timeout, self._max_attempts = timeout_seconds, max_attempts
        self.offline = offline = base_url is None
        if not offline and not str(base_url).startswith(("http://", "https://")):
            raise ValueError(f"judge address {base_url!r} is not a URL; write it as http://HOST:PORT/v1")
        self._key = NO_KEY if offline else _api_key(api_key_env)
        self._secret = _key_pattern(self._key) if len(self._key) >= SHORTEST_SECRET else None
        self._base_url = base_url or "http://replay.invalid/v1"
        self._recording = Recording(records, read_only=offline)
        self.spending = Spending(price, budget_usd)
        for attempt in read_attempts(records) if records.exists() else ():
            self._pay(attempt["request"], attempt["outcome"], attempt["reply"])
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = None if offline else httpx2.Client(limits=limits)  # not a transport: a client uses proxies
        self._random = random.Random()  # jitter must not advance the global, seeded generator
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._stopped: str | None = None

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        if self._http is not None:
            self._http.close()
        self._recording.close()

    def client(self, check: Check) -> openai.OpenAI:
        """An OpenAI client, safe to share between threads, that returns only replies that pass `check`.

        Its calls raise JudgeError if no attempt gives a usable reply, and EndpointError if the endpoint cannot be used.
        """
        return openai.OpenAI(
            base_url=self._base_url,
            api_key=self._key,
            timeout=self._timeout,
            max_retries=0,
            http_client=httpx2.Client(transport=_Transport(self, check)),
        )

    def answer(self, request: httpx2.Request, check: Check) -> dict:
        """Return the recorded reply to a request, else the first usable one from the network."""
        body = json.loads(request.read())
        name = request_id(body)
        with self._lock:
            asking = self._asking.setdefault(name, threading.Lock())
        with asking:  # the same request from two threads is paid for once
            reply = self._recording.reply(name)
            if reply is not None and check(reply) is None:
                self._count("replayed")
                return self._used(reply)
            if self._http is None:
                self._count("failed")
                raise JudgeError(f"{self._recording.path} holds no usable reply; judge again with network access")
            return self._used(self._ask(request, body, name, check))

    def _used(self, reply: dict) -> dict:
        with self._lock:
            self.served.add(str(reply.get("model")))
        return reply

    def _ask(self, request: httpx2.Request, body: dict, name: str, check: Check) -> dict:
        for attempt in range(1, self._max_attempts + 1):
            if self._stopped:
                raise EndpointError(self._stopped)
            result = self._attempt_within_budget(request, body, name, check)
            if result.outcome == GOOD:
                assert isinstance(result.reply, dict)
                return result.reply
            if result.remedy and (not result.retry or attempt == self._max_attempts):
                self._stopped = f"judge {self.name} cannot be used: {result.outcome}; {result.remedy} and run again"
                raise EndpointError(self._stopped)
            if not result.retry:
                break
            if attempt < self._max_attempts:
                self._count("retried")
                time.sleep(max(result.wait, self._backoff(attempt)))
        self._count("failed")
        raise JudgeError(
            f"judge {self.name} gave no usable reply in {attempt} attempts (last: {result.outcome}); "
            f"see {self._recording.path} and run again, recorded replies are reused"
        )

    def _attempt_within_budget(self, request: httpx2.Request, body: dict, name: str, check: Check) -> "_Attempt":
        try:
            with self.spending.reserved(body):
                result = self._send(request, check)
                self._recording.add(name, body, result.outcome, result.reply, result.seconds)
                self._pay(body, result.outcome, result.reply)
        except BudgetError as error:
            self._stopped = (
                f"judge {self.name}: {error}; raise judge.endpoint.budget_usd and run again, "
                "recorded replies are reused"
            )
            raise EndpointError(self._stopped) from None
        return result

    def _pay(self, body: dict, outcome: str, reply: dict | str) -> None:
        self.spending.add(attempt_usd(body, outcome, reply, self.spending.price))

    def _send(self, request: httpx2.Request, check: Check) -> "_Attempt":
        assert self._http is not None, "`answer` raises when offline"
        self._count("calls")
        started = time.perf_counter()
        try:
            result = _read(self._http.send(request), self._secret, check)
        except httpx2.TimeoutException:
            result = _Attempt(f"no reply in {self._timeout:g} s")
        except httpx2.ConnectError as error:
            # If all attempts of one call fail here, the server is down; the remedy keeps the other rows from trying.
            result = _Attempt(f"no connection ({error})", remedy="start it or correct its address")
        except httpx2.RequestError as error:
            result = _Attempt(f"{type(error).__name__} ({error})")
        result.seconds = time.perf_counter() - started
        return result

    def _backoff(self, attempt: int) -> float:
        return min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS) * self._random.uniform(0.5, 1.5)

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)


@dataclass(slots=True)
class _Attempt:
    """One call: its outcome, the reply, whether and after how many seconds to retry, the remedy if it keeps failing."""

    outcome: str
    reply: dict | str = ""
    retry: bool = True
    wait: float = 0.0
    remedy: str | None = None
    seconds: float = 0.0


class _Transport(httpx2.BaseTransport):
    def __init__(self, endpoint: Endpoint, check: Check) -> None:
        self._endpoint, self._check = endpoint, check

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = self._endpoint.answer(request, self._check)
        # Not `json=`: UTF-8 cannot encode half of a surrogate pair, which a token cut within a character gives.
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=json.dumps(reply).encode())


def _read(response: httpx2.Response, secret: re.Pattern | None, check: Check) -> _Attempt:
    # Some servers quote the key that they refuse; it must reach neither the recording nor an error message.
    status, text = response.status_code, secret.sub("[key]", response.text) if secret else response.text
    outcome = f"HTTP {status}: {' '.join(text.split())[:200]}"
    if status in REFUSALS:
        return _Attempt(outcome, text, retry=False, remedy=REFUSALS[status])
    if status == 429 and "insufficient_quota" in text:
        return _Attempt("the quota is used up", text, retry=False, remedy="raise it")
    if status != 200:
        retry = status >= 500 or status in RETRIED_STATUSES
        return _Attempt(outcome, text, retry, wait=_retry_after(response))
    try:
        reply = json.loads(text, parse_constant=_refuse_nan)
    except (ValueError, RecursionError):  # RecursionError: endless brackets
        return _Attempt("garbled JSON", text)
    problem = _malformed(reply) or check(reply)
    return _Attempt(problem or GOOD, reply)


def _refuse_nan(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _malformed(reply: Any) -> str | None:
    # alpaca_eval reads these fields unchecked: a missing one would end in a traceback instead of a retry.
    try:
        valid = reply["choices"][0]["message"]["role"] == "assistant" and reply["usage"]["total_tokens"] >= 0
    except (KeyError, IndexError, TypeError):
        valid = False
    return None if valid else "no assistant's message or no token count in the reply"


def _retry_after(response: httpx2.Response) -> float:
    seconds = response.headers.get("retry-after", "")
    return min(float(seconds), LONGEST_WAIT_SECONDS) if seconds.isdecimal() else 0.0


def _key_pattern(key: str) -> re.Pattern:
    """Matches the key, also with its characters escaped as JSON writers may do: `\\/`, `\\u002b`."""
    return re.compile("".join(rf"(?:\\?{re.escape(c)}|\\u(?i:{ord(c):04x}))" for c in key))


def _api_key(variable: str | None) -> str:
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"environment variable {variable} holds no key for the judge; export it or replay a recording")
    return key
