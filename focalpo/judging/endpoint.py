"""One judge behind an OpenAI-compatible endpoint: requests in, usable replies out, each paid for once.

    openai.OpenAI (ours or alpaca_eval's) --> transport --> recording, else network with retries --> check --> reply

The transport is ours so that alpaca_eval's own client and the Arena-Hard games share one path: the record, the retries,
the connection pool and the counts. A reply that the caller's check finds useless is retried like a failed call.
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
"""Besides all of 500 and above."""
NO_KEY = "none"
"""What a local server gets, the OpenAI client wants some key."""
SHORTEST_SECRET = 8
"""Characters. A key as short as `x`, `0` or `token` is a local server's placeholder and occurs in every reply."""
REFUSALS = {401: "check the key", 403: "check what the key may do", 404: "check the address and the model's name"}

Check = Callable[[dict], str | None]
"""Says what is wrong with a reply, or None when it holds a judgement."""


class JudgeError(ValueError):
    """One judgement that could not be had; the others can go on."""


class EndpointError(ValueError):
    """An endpoint that cannot be used at all; nothing more is asked of it."""


@dataclass(slots=True)
class Counts:
    """What an endpoint did: calls on the network, repeated ones, answers from the record, judgements given up."""

    calls: int = 0
    retried: int = 0
    replayed: int = 0
    failed: int = 0


class Endpoint:
    """An OpenAI-compatible server with a record of all it said; with `base_url=None` only the record.

    Raises:
        ValueError: when the address is none, the key's environment variable is not set, or the record is unreadable.
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
        self._timeout, self._max_attempts = timeout_seconds, max_attempts
        self.offline = offline = base_url is None
        if not offline and not str(base_url).startswith(("http://", "https://")):
            raise ValueError(f"judge address {base_url!r} is none; write it as http://HOST:PORT/v1")
        self._key = NO_KEY if offline else _api_key(api_key_env)
        self._secret = _written(self._key) if len(self._key) >= SHORTEST_SECRET else None
        self._base_url = base_url or "http://replay.invalid/v1"
        self._recording = Recording(records, read_only=offline)
        self.spending = Spending(price, budget_usd)
        for attempt in read_attempts(records) if records.exists() else ():
            self._pay(attempt["request"], attempt["outcome"], attempt["reply"])
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = None if offline else httpx2.Client(limits=limits)  # a client, not a transport: it knows proxies
        self._random = random.Random()  # our own: waiting must not move anyone's seeded random numbers
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
        """An OpenAI client, safe to share between threads, whose every reply has passed `check`.

        Its calls raise JudgeError when no usable reply was had in all attempts, EndpointError when asking is pointless.
        """
        return openai.OpenAI(
            base_url=self._base_url,
            api_key=self._key,
            timeout=self._timeout,
            max_retries=0,
            http_client=httpx2.Client(transport=_Transport(self, check)),
        )

    def answer(self, request: httpx2.Request, check: Check) -> dict:
        """The recorded reply to a request, else the first usable one from the network."""
        body = json.loads(request.read())
        name = request_id(body)
        with self._lock:
            asking = self._asking.setdefault(name, threading.Lock())
        with asking:  # the same request from two threads is paid for once
            reply = self._recording.reply(name)
            if reply is not None and check(reply) is None:
                self._count("replayed")
                return reply
            if self._http is None:
                self._count("failed")
                raise JudgeError(f"{self._recording.path} holds no usable reply; judge it again with the network on")
            return self._ask(request, body, name, check)

    def _ask(self, request: httpx2.Request, body: dict, name: str, check: Check) -> dict:
        for attempt in range(1, self._max_attempts + 1):
            if self._stopped:
                raise EndpointError(self._stopped)
            tried = self._paid_try(request, body, name, check)
            if tried.outcome == GOOD:
                assert isinstance(tried.reply, dict)
                return tried.reply
            if tried.remedy and (not tried.again or attempt == self._max_attempts):
                self._stopped = f"judge {self.name} cannot be used: {tried.outcome}; {tried.remedy} and run again"
                raise EndpointError(self._stopped)
            if not tried.again:
                break
            if attempt < self._max_attempts:
                self._count("retried")
                time.sleep(max(tried.wait, self._backoff(attempt)))
        self._count("failed")
        raise JudgeError(
            f"judge {self.name} gave no usable reply in {attempt} attempts (last: {tried.outcome}); see "
            f"{self._recording.path} and run again, what is answered is not asked twice"
        )

    def _paid_try(self, request: httpx2.Request, body: dict, name: str, check: Check) -> "_Try":
        try:
            with self.spending.reserved(body):
                tried = self._try_once(request, check)
                self._recording.add(name, body, tried.outcome, tried.reply, tried.seconds)
                self._pay(body, tried.outcome, tried.reply)
        except BudgetError as error:
            self._stopped = (
                f"judge {self.name}: {error}; raise judge.endpoint.budget_usd and run again, what is answered stays"
            )
            raise EndpointError(self._stopped) from None
        return tried

    def _pay(self, body: dict, outcome: str, reply: dict | str) -> None:
        self.spending.add(attempt_usd(body, outcome, reply, self.spending.price))

    def _try_once(self, request: httpx2.Request, check: Check) -> "_Try":
        assert self._http is not None, "offline, answer has raised"
        self._count("calls")
        started = time.perf_counter()
        try:
            tried = _read(self._http.send(request), self._secret, check)
        except httpx2.TimeoutException:
            tried = _Try(f"no reply in {self._timeout:g} s")
        except httpx2.ConnectError as error:
            # Every attempt of a call refused: the server is down, and the other rows need not find out one by one.
            tried = _Try(f"no connection ({error})", remedy="start it or correct its address")
        except httpx2.RequestError as error:
            tried = _Try(f"{type(error).__name__} ({error})")
        tried.seconds = time.perf_counter() - started
        return tried

    def _backoff(self, attempt: int) -> float:
        return min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS) * self._random.uniform(0.5, 1.5)

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)


@dataclass(slots=True)
class _Try:
    """One call: its outcome, the reply, may it be repeated and after how long, what the user must do if it stays so."""

    outcome: str
    reply: dict | str = ""
    again: bool = True
    wait: float = 0.0
    remedy: str | None = None
    seconds: float = 0.0


class _Transport(httpx2.BaseTransport):
    def __init__(self, endpoint: Endpoint, check: Check) -> None:
        self._endpoint, self._check = endpoint, check

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = self._endpoint.answer(request, self._check)
        # Not `json=`: it wants UTF-8, and a token cut in the middle of a character comes as half of a surrogate pair.
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=json.dumps(reply).encode())


def _read(response: httpx2.Response, secret: re.Pattern | None, check: Check) -> _Try:
    # Some servers quote the key that they refuse; it must reach neither the record nor an error message.
    status, text = response.status_code, secret.sub("[key]", response.text) if secret else response.text
    said = f"HTTP {status}: {' '.join(text.split())[:200]}"
    if status in REFUSALS:
        return _Try(said, text, again=False, remedy=REFUSALS[status])
    if status == 429 and "insufficient_quota" in text:
        return _Try("the quota is used up", text, again=False, remedy="raise it")
    if status != 200:
        again = status >= 500 or status in RETRIED_STATUSES
        return _Try(said, text, again, wait=_retry_after(response))
    try:
        reply = json.loads(text, parse_constant=_refuse_nan)
    except (ValueError, RecursionError):  # the second for endless brackets
        return _Try("garbled JSON", text)
    problem = _malformed(reply) or check(reply)
    return _Try(problem or GOOD, reply)


def _refuse_nan(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _malformed(reply: Any) -> str | None:
    # alpaca_eval reads these without looking: it would end in a traceback where a retry is due.
    try:
        well = reply["choices"][0]["message"]["role"] == "assistant" and reply["usage"]["total_tokens"] >= 0
    except (KeyError, IndexError, TypeError):
        well = False
    return None if well else "no assistant's message or no token count in the reply"


def _retry_after(response: httpx2.Response) -> float:
    seconds = response.headers.get("retry-after", "")
    return min(float(seconds), LONGEST_WAIT_SECONDS) if seconds.isdecimal() else 0.0


def _written(key: str) -> re.Pattern:
    """The key as it is, and as JSON writers may escape its characters: `\\/`, `\\u002b`."""
    return re.compile("".join(rf"(?:\\?{re.escape(c)}|\\u(?i:{ord(c):04x}))" for c in key))


def _api_key(variable: str | None) -> str:
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"environment variable {variable} holds no key for the judge; export it, or replay a record")
    return key
