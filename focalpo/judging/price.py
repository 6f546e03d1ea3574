"""What judging costs: an estimate before the first call, and the actual cost of every attempt.

expected(protocol, questions, completions, price) -> requests, tokens, USD, seconds      before the first call
attempt_usd(request, outcome, reply, price) -> USD               after every attempt, and again from the record
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from focalpo.judging.protocol import AlpacaProtocol, JudgedProtocol, annotator_config, prompt_files
from focalpo.judging.requests import longest_reply
from focalpo.stages.records import Completion, Question

MILLION = 1_000_000
BATCH_SHARE = 0.5
"""What a request in a batch costs, of its price (read: Azure's and OpenAI's batch guides)."""
CHARACTERS_PER_TOKEN = 4.8
"""For estimates, from the bills of published AlpacaEval annotations; actual cost uses the server's token counts."""
TOKENS_AROUND_A_MESSAGE = 16
"""More than any chat template in use adds to a message; for the upper bound, not for the estimate."""
NOT_BILLED = ("HTTP ", "no connection", "the quota", "not in the batch")
"""Prefixes of the outcomes that no provider bills: it refused the request, or was never reached."""


class BudgetError(ValueError):
    """The next call may cost more than what is left of the budget."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, and what the estimate assumes about a reply: its tokens (at most) and seconds."""

    input_usd: float
    output_usd: float
    reply_tokens: int
    seconds_per_request: float
    seconds_per_reply_token: float

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / MILLION

    def in_batches(self) -> "Price":
        """The price of requests that are sent in batches."""
        return replace(self, input_usd=BATCH_SHARE * self.input_usd, output_usd=BATCH_SHARE * self.output_usd)


FREE = Price(0.0, 0.0, 0, 0.0, 0.0)


def price_of(settings: dict) -> Price:
    """The price of requests to the endpoint that the plain values of `judge.endpoint` describe."""
    price = Price(**settings["price"])
    return price.in_batches() if settings["batch"] else price


@dataclass(frozen=True, slots=True)
class Estimate:
    """What judging one model takes if every request succeeds at the first attempt and nothing is recorded yet."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: float
    seconds: float

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.usd + other.usd,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        tokens = f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out"
        return f"{self.requests:,} requests, {tokens}, about USD {self.usd:.2f}, {self.seconds / 60:.1f} min"


NOTHING = Estimate(0, 0, 0, 0.0, 0.0)


def expected_of(
    tasks: Iterable[tuple[JudgedProtocol, Sequence[Question], Sequence[Completion]]], settings: dict
) -> Estimate:
    """Estimate several benchmarks at the endpoint that the plain values of `judge.endpoint` describe."""
    price, concurrency = price_of(settings), settings["concurrency"]
    return sum((expected(*task, price, concurrency) for task in tasks), NOTHING)


def expected(
    protocol: JudgedProtocol,
    questions: Sequence[Question],
    completions: Sequence[Completion],
    price: Price,
    concurrency: int,
) -> Estimate:
    """Estimate a benchmark: one request per prompt that needs one, or two games per prompt; retries are not counted."""
    texts = {answer.id: answer.text for answer in completions}
    if isinstance(protocol, AlpacaProtocol):
        (annotator,) = annotator_config(protocol.annotator).values()
        overhead, games = len(Path(annotator["prompt_template"]).read_text()), 1
        # An answer equal to the reference is a tie without a request.
        judged = [question for question in questions if texts.get(question.id) != question.reference]
    else:
        longest = max(len(file.read_text()) for file in prompt_files(protocol).values())
        overhead, games = longest + len(protocol.user_template), 2
        judged = list(questions)
    characters = [
        overhead + len(question.prompt[-1]["content"]) + len(question.reference) + len(texts.get(question.id, ""))
        for question in judged
    ]
    return estimate(characters * games, assumed_reply(protocol, price), price, concurrency)


def assumed_reply(protocol: JudgedProtocol, price: Price) -> int:
    """The tokens that a reply is assumed to have: the price's, or the request's limit where that is lower."""
    return min(price.reply_tokens, longest_reply(protocol.request))


def estimate(characters: Sequence[int], reply_tokens: int, price: Price, concurrency: int) -> Estimate:
    """Estimate one request per entry of `characters` (the request's length), each answered with `reply_tokens`."""
    requests = len(characters)
    tokens = round(sum(characters) / CHARACTERS_PER_TOKEN), requests * reply_tokens
    seconds = requests * (price.seconds_per_request + reply_tokens * price.seconds_per_reply_token) / concurrency
    return Estimate(requests, *tokens, price.usd(*tokens), seconds)


def attempt_usd(request: dict, outcome: str, reply: Any, price: Price) -> float:
    """What an attempt cost, in USD: by the server's token counts, else the upper bound unless it is known to be free.

    A reply that came too late or broke off may have been billed; a budget that ignored it would not hold.
    """
    usage: Any = reply.get("usage") if isinstance(reply, dict) else None
    try:
        return price.usd(usage["prompt_tokens"], usage.get("completion_tokens") or 0)
    except (AttributeError, KeyError, TypeError):
        return 0.0 if outcome.startswith(NOT_BILLED) else most_usd(request, price)


def most_usd(request: dict, price: Price) -> float:
    """Upper bound of a request's cost, in USD: a token has at least one byte, and a reply ends at its limit."""
    texts = [str(message.get("content", "")) for message in request.get("messages", [])]
    tokens = sum(len(text.encode(errors="surrogatepass")) + TOKENS_AROUND_A_MESSAGE for text in texts)
    return price.usd(tokens, longest_reply(request))


class Spending:
    """The money spent so far, under a budget that also covers the calls in flight; None: no budget."""

    def __init__(self, price: Price, budget_usd: float | None) -> None:
        self.price, self.budget_usd = price, budget_usd
        self.usd = 0.0
        self._in_flight: list[float] = []
        self._changed = threading.Condition()

    def add(self, usd: float) -> None:
        with self._changed:
            self.usd += usd

    def affords(self, usd: float) -> bool:
        """Whether the budget has room for so much more."""
        return self.budget_usd is None or self.usd + usd <= self.budget_usd

    @contextmanager
    def reserved(self, request: dict) -> Iterator[None]:
        """Reserve the most that a call can cost; waits for calls in flight if the budget may suffice once they end.

        Raises:
            BudgetError: if the call does not fit into what is left and no call in flight can release any.
        """
        most = most_usd(request, self.price)
        with self._changed:
            while self.budget_usd is not None and self.usd + sum(self._in_flight) + most > self.budget_usd:
                if not self._in_flight:
                    raise BudgetError(
                        f"the budget of USD {self.budget_usd:.2f} is used up: USD {self.usd:.4f} spent, the next "
                        f"call may cost USD {most:.4f}"
                    )
                self._changed.wait()
            self._in_flight.append(most)
        try:
            yield
        finally:
            with self._changed:
                self._in_flight.remove(most)
                self._changed.notify_all()
