"""What judging costs, before and after: by hand, against published bills, and under a budget that stops a run."""

import gzip
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.dispatch import judge
from focalpo.judging.endpoint import EndpointError
from focalpo.judging.price import (
    CHARACTERS_PER_TOKEN,
    FREE,
    BudgetError,
    Estimate,
    Price,
    Spending,
    attempt_usd,
    estimate,
    expected,
    most_usd,
)
from focalpo.judging.protocol import load_protocol
from focalpo.stages.records import Completion, Question
from tests.judge_stub import completion, judge_stub, opened

EVAL = Path(__file__).parent.parent / "eval"
PRICE = Price(input_usd=10.0, output_usd=30.0, reply_tokens=300, seconds_per_request=0.5, seconds_per_reply_token=0.03)
REQUEST = {"messages": [{"role": "user", "content": "four"}], "max_tokens": 100}
# 4 bytes and 16 tokens of a template at USD 10, 100 tokens of a reply at USD 30, for a million
MOST = (20 * 10 + 100 * 30) / 1e6


def test_an_estimate_by_hand() -> None:
    found = estimate([4800, 9600], reply_tokens=100, price=PRICE, concurrency=2)
    # 3,000 tokens in, 200 out; 2 requests of 0.5 + 100 x 0.03 s, two at a time
    assert found == Estimate(2, 3000, 200, pytest.approx(0.03 + 0.006), pytest.approx(3.5))
    assert found + found == Estimate(4, 6000, 400, pytest.approx(0.072), pytest.approx(7.0))
    assert str(found) == "2 requests, 3,000 tokens in, 200 out, about USD 0.04, 0.1 min"


def test_the_estimate_counts_the_requests_that_will_be_made(tmp_path: Path) -> None:
    """An AlpacaEval answer equal to the reference needs no request; every Arena-Hard prompt needs two."""
    questions = [Question(str(n), [{"role": "user", "content": f"do {n}"}], "done") for n in range(3)]
    alpaca = replace(load_protocol(EVAL / "alpaca_eval_2.yaml"), prompts=3)
    arena = replace(load_protocol(EVAL / "arena_hard_v0_1.yaml"), prompts=3)
    logprobs = {"m": -0.1, "M": -2.0}
    for protocol, requests, reply in ((alpaca, 2, 1), (arena, 6, 300)):
        # In Arena-Hard the two games of such an answer are the same request; avoid it here.
        first = "done" if protocol is alpaca else "maybe"
        answers = [Completion(q.id, q.prompt, "no" if n else first, 1, True) for n, q in enumerate(questions)]
        with judge_stub(lambda *_: completion("[[A>B]]", logprobs)) as stub:
            folder = tmp_path / protocol.name
            with opened(stub.url, folder) as endpoint:
                judge(questions, answers, protocol, endpoint)
        found = expected(protocol, questions, answers, PRICE, concurrency=1)
        assert found.requests == len(stub.requests) == requests
        assert found.output_tokens == requests * reply
        asked = sum(len(message["content"]) for body in stub.requests for message in body["messages"])
        assert CHARACTERS_PER_TOKEN * found.input_tokens == pytest.approx(
            asked, rel=0.1
        )  # the library removes the chat tokens


@pytest.mark.parametrize("name", ["claude-2", "gpt-3.5-turbo-0301", "vicuna-13b"])
def test_the_estimate_of_alpaca_eval_is_near_the_bill_of_published_annotations(shared_data: Path, name: str) -> None:
    rows = json.loads(gzip.decompress((shared_data / f"alpaca_eval_annotations/{name}.json.gz").read_bytes()))
    bill = sum(row["price_per_example"] or 0 for row in rows)
    asked = [[{"role": "user", "content": row["instruction"]}] for row in rows]
    questions = [Question(str(n), asked[n], row["output_1"]) for n, row in enumerate(rows)]
    answers = [Completion(str(n), asked[n], row["output_2"], 1, True) for n, row in enumerate(rows)]
    found = expected(load_protocol(EVAL / "alpaca_eval_2.yaml"), questions, answers, PRICE, concurrency=16)
    assert found.requests <= 805 and found.usd == pytest.approx(bill, rel=0.1)


@pytest.mark.parametrize(
    ("outcome", "reply", "usd"),
    [
        ("good", {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}}, 0.0103),
        ("no verdict in the reply", {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}}, 0.0103),
        ("good", {"usage": {"prompt_tokens": 1000, "total_tokens": 1000}}, 0.01),
        ("HTTP 429: slow down", '{"error": {}}', 0.0),
        ("no connection (refused)", "", 0.0),
        ("the quota is used up", "{}", 0.0),
        # After a timeout or half a reply, the whole reply may be billed.
        ("no reply in 5 s", "", MOST),
        ("garbled JSON", '{"choices": [', MOST),
        ("no assistant's message or no token count in the reply", {"usage": None}, MOST),
        ("no assistant's message or no token count in the reply", [], MOST),
    ],
)
def test_what_an_attempt_cost(outcome: str, reply: dict | str, usd: float) -> None:
    assert attempt_usd(REQUEST, outcome, reply, PRICE) == pytest.approx(usd)


def test_no_reply_costs_more_than_the_bound() -> None:
    assert most_usd(REQUEST, PRICE) == pytest.approx(MOST)
    assert most_usd(REQUEST | {"max_tokens": None}, PRICE) == pytest.approx((20 * 10 + 4096 * 30) / 1e6)
    assert most_usd({"messages": [{"role": "user", "content": "ü\ud83d"}]}, FREE) == 0.0


def test_a_call_waits_for_those_in_flight_before_it_is_refused() -> None:
    spending = Spending(PRICE, budget_usd=1.5 * MOST)
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        with spending.reserved(REQUEST):
            order.append("second")

    with spending.reserved(REQUEST):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    spending.add(MOST)
    with pytest.raises(BudgetError, match=r"budget of USD 0.00 is used up: USD 0.0032 spent, the next call may"):
        with spending.reserved(REQUEST):
            pass


def test_a_budget_is_never_exceeded_and_once_raised_nothing_is_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred games at USD 0.0104 each by the stub's token counts, under a budget for fewer."""
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)
    arena = replace(
        load_protocol(EVAL / "arena_hard_v0_1.yaml"), prompts=50, request={"temperature": 0, "max_tokens": 50}
    )
    questions = [Question(str(n), [{"role": "user", "content": f"do {n}"}], "done") for n in range(50)]
    answers = [Completion(q.id, q.prompt, "no", 1, True) for q in questions]
    usage = {"prompt_tokens": 1010, "completion_tokens": 10, "total_tokens": 1020}
    reply = completion("My final verdict is: [[A>B]]") | {"usage": usage}
    price = 1010 * 10 / 1e6 + 10 * 30 / 1e6
    with judge_stub(lambda *_: reply) as stub:
        for budget, most_calls in ((0.3, 28), (0.3, 28), (0.5, 48)):
            with (
                opened(stub.url, tmp_path, price=PRICE, budget_usd=budget) as endpoint,
                pytest.raises(EndpointError) as stopped,
            ):
                judge(questions, answers, arena, endpoint)
            message = str(stopped.value)
            assert "raise judge.endpoint.budget_usd and run again" in message and "\n" not in message
            assert endpoint.spending.usd == pytest.approx(len(stub.requests) * price)
            assert endpoint.spending.usd <= budget
            assert most_calls / 2 < len(stub.requests) <= most_calls
        with opened(stub.url, tmp_path, price=PRICE, budget_usd=None) as endpoint:
            assert len(judge(questions, answers, arena, endpoint)) == 100
    assert len(stub.requests) == 100 and set(stub.times().values()) == {1}
    assert endpoint.spending.usd == pytest.approx(100 * price)
