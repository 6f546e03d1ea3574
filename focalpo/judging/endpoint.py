"""A judge behind an OpenAI-compatible endpoint: requests in, usable replies out, each paid for once.

    openai.OpenAI (ours or alpaca_eval's) --> transport --> recording, else network with retries --> check --> reply

The custom transport gives alpaca_eval's own client and the Arena-Hard games one path: the recording, the retries, the
pace, the connection pool and the counts. A reply that fails the caller's check is retried like a failed call.
"""

import json
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import httpx2
import openai

from focalpo.judging.batching import BatchError, Batches
from focalpo.judging.keys import NO_KEY, api_key, without_key
from focalpo.judging.pacing import Pace, RefusedError
from focalpo.judging.price import FREE, BudgetError, Price, Spending, attempt_usd
from focalpo.judging.recording import GOOD, Recording, read_attempts, request_id
from focalpo.judging.replies import Attempt, Check, read_response

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0
RETRIES_OF_BATCHES = 8
"""Of one call about a batch, by the OpenAI client, with its own waits."""
PATIENCE_SECONDS = 3600.0
"""How long a judge may refuse every request as one too many before it counts as not usable."""


class JudgeError(ValueError):
    """One judgement failed; the others can continue."""


class LostError(ValueError):
    """A request that the recording should hold was never made: no verdict of a judge is missing, but the record."""


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

    A query of `base_url` goes with every request; the key goes into `api_key_header`. With `batch`, requests are
    answered from batches, see `fill`. A request that the judge refuses as one too many was no attempt, and is sent
    again unless nothing got through for `patience_seconds`.

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
        api_key_header: str = "Authorization",
        batch: bool = False,
        price: Price = FREE,
        budget_usd: float | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.name = (base_url or "replay").partition("?")[0]
        self.concurrency = concurrency
        self.counts = Counts()
        self.served: set[str] = set()  # the models that the replies name, which may not be the one that is asked for
        self._timeout, self._max_attempts = timeout_seconds, max_attempts
        self.offline = offline = base_url is None
        if not offline and not str(base_url).startswith(("http://", "https://")):
            raise ValueError(f"judge address {base_url!r} is not a URL; write it as http://HOST:PORT/v1")
        self._key = NO_KEY if offline else api_key(api_key_env)
        self._key_header = api_key_header
        self._base_url = base_url or "http://replay.invalid/v1"
        self._recording = Recording(records, read_only=offline)
        self.spending = Spending(price, budget_usd)
        for attempt in read_attempts(records) if records.exists() else ():
            self._pay(attempt["request"], attempt["outcome"], attempt["reply"], batched="batch" in attempt)
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        # Not a transport: a client uses proxies.
        self._http = None if offline else httpx2.Client(limits=limits, event_hooks={"request": [self._with_key]})
        self._random = random.Random()  # jitter must not advance the global, seeded generator
        self._pace = Pace(patience_seconds)
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._stopped: str | None = None
        self._batches: Batches | None = None
        if batch and not offline:
            asking = self._client(httpx2.Client(event_hooks={"request": [self._with_key]}), retries=RETRIES_OF_BATCHES)
            clean = partial(without_key, key=self._key)
            self._batches = Batches(asking, records.parent, self.spending, clean)
        self._tries: Counter[str] = Counter()

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
        return self._client(httpx2.Client(transport=_Transport(self, check)), retries=0)

    def _client(self, http: httpx2.Client, retries: int) -> openai.OpenAI:
        address, _, query = self._base_url.partition("?")
        return openai.OpenAI(
            base_url=address,
            api_key=self._key,
            timeout=self._timeout,
            max_retries=retries,
            http_client=http,
            default_query=dict(urllib.parse.parse_qsl(query)),
        )

    def _with_key(self, request: httpx2.Request) -> None:
        if self._key_header != "Authorization":  # else it is there, as the OpenAI client puts it
            del request.headers["Authorization"]
            request.headers[self._key_header] = self._key

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
                kind = JudgeError if self._recording.asked(name) else LostError
                raise kind(f"{self._recording.path} holds no usable reply; judge again with network access")
            if self._batches is not None:
                return self._used(self._from_batch(self._batches, body, name, check))
            return self._used(self._ask(request, body, name, check))

    def fill(self, calls: Sequence[Callable[[], object]]) -> None:
        """Where requests go in batches, record the replies to all requests of these calls; else do nothing.

        The calls are made in rounds, and miss replies until all are recorded or given up. Make them again afterwards.
        """
        if self._batches is None:
            return
        try:
            self._batches.resume()
            while True:
                for call in calls:
                    try:
                        call()
                    except EndpointError:
                        raise
                    except ValueError:
                        pass  # verdicts are missing: their requests wait for a batch, or were given up
                self._batches.settle()
                if not self._batches.waiting:
                    return
                self._batches.run()
        except BatchError as error:
            self._stop(str(error))

    def _from_batch(self, batches: Batches, body: dict, name: str, check: Check) -> dict:
        row = batches.replies.pop(name, None)
        if row is not None:
            result = row.attempt(body, check)
            self._count("calls")
            self._tries[name] += 1
            if not self._recording.has(name, row.batch):
                self._recording.add(name, body, result.outcome, result.reply, result.seconds, row.batch)
                self._pay(body, result.outcome, result.reply, batched=True)
            if result.outcome == GOOD:
                assert isinstance(result.reply, dict)
                return result.reply
            if result.remedy and not result.retry:
                self._stop(f"{result.outcome}; {result.remedy} and run again")
            if not result.retry:
                self._tries[name] = self._max_attempts
            self._count("failed" if self._tries[name] >= self._max_attempts else "retried")
        if self._tries[name] < self._max_attempts:
            batches.waiting[name] = body
            raise JudgeError("its batch is not there yet")
        raise JudgeError(f"judge {self.name} gave no usable reply in its batches; see {self._recording.path}")

    def _used(self, reply: dict) -> dict:
        with self._lock:
            self.served.add(str(reply.get("model")))
        return reply

    def _ask(self, request: httpx2.Request, body: dict, name: str, check: Check) -> dict:
        attempts = 0
        while True:
            result = self._attempt(request, body, name, check)
            if result.outcome == GOOD:
                assert isinstance(result.reply, dict)
                return result.reply
            attempts += not result.refused
            again = result.retry and (result.refused or attempts < self._max_attempts)
            if result.remedy and not again:
                self._stop(f"{result.outcome}; {result.remedy} and run again")
            if not again:
                break
            self._count("retried")
            if not result.refused:  # else the pace has its wait
                time.sleep(self._backoff(attempts))
        self._count("failed")
        raise JudgeError(
            f"judge {self.name} gave no usable reply in {attempts} attempts (last: {result.outcome}); "
            f"see {self._recording.path} and run again, recorded replies are reused"
        )

    def _attempt(self, request: httpx2.Request, body: dict, name: str, check: Check) -> Attempt:
        sent = self._pace.wait()
        if self._stopped:
            raise EndpointError(self._stopped)
        try:
            with self.spending.reserved(body):
                result = self._send(request, body, check)
                self._recording.add(name, body, result.outcome, result.reply, result.seconds)
                self._pay(body, result.outcome, result.reply)
            if result.refused:
                self._pace.slower(sent, result.pause)
            else:
                self._pace.faster(result.pause)
        except BudgetError as error:
            self._stop(f"{error}; raise judge.endpoint.budget_usd and run again, recorded replies are reused")
        except RefusedError as error:
            self._stop(f"{error} ({result.outcome}); run again later, recorded replies are reused")
        return result

    def _stop(self, reason: str) -> NoReturn:
        self._pace.end()
        self._stopped = f"judge {self.name} cannot be used: {reason}"
        raise EndpointError(self._stopped) from None

    def _pay(self, body: dict, outcome: str, reply: dict | str, batched: bool = False) -> None:
        price = self.spending.price.in_batches() if batched else self.spending.price
        self.spending.add(attempt_usd(body, outcome, reply, price))

    def _send(self, request: httpx2.Request, body: dict, check: Check) -> Attempt:
        assert self._http is not None, "`answer` raises when offline"
        self._count("calls")
        started = time.perf_counter()
        try:
            with closing(self._http.send(request, stream=True)) as response:
                result = read_response(response, self._key, body, check)
        except httpx2.TimeoutException:
            result = Attempt(f"no reply in {self._timeout:g} s")
        except httpx2.ConnectError as error:
            # If all attempts of one call fail here, the server is down; the remedy keeps the other rows from trying.
            result = Attempt(f"no connection ({error})", remedy="start it or correct its address")
        except httpx2.RequestError as error:
            result = Attempt(f"{type(error).__name__} ({error})")
        result.seconds = time.perf_counter() - started
        return result

    def _backoff(self, attempt: int) -> float:
        return min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS) * self._random.uniform(0.5, 1.5)

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)


class _Transport(httpx2.BaseTransport):
    def __init__(self, endpoint: Endpoint, check: Check) -> None:
        self._endpoint, self._check = endpoint, check

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = self._endpoint.answer(request, self._check)
        # Not `json=`: UTF-8 cannot encode half of a surrogate pair, which a token cut within a character gives.
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=json.dumps(reply).encode())
