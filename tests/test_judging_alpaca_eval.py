"""AlpacaEval through the real library, the real OpenAI client and real HTTP, with a judge of known preferences."""

import math
import random
import re
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.dispatch import missing
from focalpo.judging.endpoint import EndpointError
from focalpo.scoring.stats import discrete_win_rate, value, win_rate
from focalpo.stages.records import AlpacaVerdict
from tests.judge_stub import Fault, completion, judge_stub, opened
from tests.known_judge import CHANCES, PROTOCOLS, benchmark, honest, model_is_first, protocol


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_library_reproduces_a_judge_of_known_preferences(tmp_path: Path, name: str) -> None:
    questions, completions = benchmark(CHANCES)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(8, name), endpoint)
    assert [(verdict.id, verdict.index) for verdict in verdicts] == [(f"q{row}", row) for row in range(8)]
    assert [verdict.preference for verdict in verdicts] == pytest.approx([1 + chance for chance in CHANCES], abs=1e-9)
    preferences = np.array([verdict.preference for verdict in verdicts])
    assert value(win_rate(preferences[None])) == pytest.approx(100 * sum(CHANCES) / 8, abs=1e-6)
    assert discrete_win_rate(preferences) == 62.5
    assert {len(questions[0].reference), len(completions[0].text)} == {
        verdicts[0].reference_length,
        verdicts[0].model_length,
    }
    assert len(stub.requests) == 8


def test_the_output_order_is_the_librarys_seeded_draw(tmp_path: Path) -> None:
    questions, completions = benchmark([0.9] * 12)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(questions, completions, protocol(12), endpoint)
    first = {
        re.search(r"question \d+", body["messages"][-1]["content"]).group(): model_is_first(body)
        for body in stub.requests
    }
    drawn = {
        f"question {row}": random.Random(f"is_switched_outputsquestion {row}0").choices([False, True], k=1)[0]
        for row in range(12)
    }
    assert first == drawn
    assert set(drawn.values()) == {False, True}


def test_the_request_matches_the_official_annotator(tmp_path: Path) -> None:
    questions, completions = benchmark([0.5001])
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(questions, completions, protocol(1), endpoint)
    (body,) = stub.requests
    messages = body.pop("messages")
    assert body == {
        "model": "gpt-4-1106-preview", "max_tokens": 1, "temperature": 1, "top_p": 1.0, "logprobs": True,
        "top_logprobs": 5,
    }  # fmt: skip
    assert [message["role"] for message in messages] == ["system", "user"]


def test_the_order_of_the_completions_does_not_matter(tmp_path: Path) -> None:
    questions, completions = benchmark(CHANCES)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(8), endpoint)
        assert judge_alpaca(questions, completions[::-1], protocol(8), endpoint) == verdicts
    assert len(stub.requests) == 8


def test_a_length_judge_sees_both_orders_and_prefers_the_longer_answer(tmp_path: Path) -> None:
    """Longer model answers in even rows, longer references in odd ones: 0.8 and 0.2, whichever is shown first."""
    questions, completions = benchmark([0.5] * 12)
    questions = [
        replace(question, reference=f"{question.reference}{' and more' * (row % 2) * 5}")
        for row, question in enumerate(questions)
    ]

    def longer(body: dict, _: int) -> dict:
        first, second = re.findall(r'"output": """(.*?)"""', body["messages"][-1]["content"], re.DOTALL)
        likely = {True: math.log(0.8), False: math.log(0.2)}
        return completion("m", {"m": likely[len(first) > len(second)], "M": likely[len(second) > len(first)]})

    with judge_stub(longer) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(12), endpoint)
    assert {model_is_first(body) for body in stub.requests} == {False, True}
    assert [verdict.preference for verdict in verdicts] == pytest.approx([1.8, 1.2] * 6)


def test_an_empty_answer_is_judged_like_any_other(tmp_path: Path) -> None:
    questions, completions = benchmark([0.5])
    with (
        judge_stub(lambda *_: completion("m", {"m": math.log(0.75), "M": math.log(0.25)})) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        empty = replace(completions[0], text="")
        (verdict,) = judge_alpaca(questions, [empty], protocol(1), endpoint)
    assert verdict.model_length == 0 and verdict.preference in (pytest.approx(1.25), pytest.approx(1.75))
    assert len(stub.requests) == 1


def test_equal_outputs_are_a_tie_without_a_request(tmp_path: Path) -> None:
    questions, completions = benchmark([0.9, 0.2])
    completions[0] = replace(completions[0], text=questions[0].reference)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(2), endpoint)
        alone = judge_alpaca(questions[:1], completions[:1], protocol(1), endpoint)
    assert [verdict.preference for verdict in verdicts] == pytest.approx([1.5, 1.2])
    assert alone == [AlpacaVerdict("q0", 0, 1.5, 11, 11)]
    assert len(stub.requests) == 1


def test_repeated_rows_share_one_request_and_its_verdict(tmp_path: Path) -> None:
    questions, completions = benchmark([0.9, 0.2])
    questions.append(replace(questions[0], id="q2"))
    completions.append(replace(completions[0], id="q2"))
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(3), endpoint)
    assert [verdict.preference for verdict in verdicts] == pytest.approx([1.9, 1.2, 1.9])
    assert [verdict.index for verdict in verdicts] == [0, 1, 2]
    assert len(stub.requests) == 2


def test_a_token_missing_from_the_top_logprobs_has_probability_zero(tmp_path: Path) -> None:
    questions, completions = benchmark([0.5])
    with (
        judge_stub(lambda body, _: completion("m", {"m" if model_is_first(body) else "M": -0.1, "x": -9.0})) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        assert [v.preference for v in judge_alpaca(questions, completions, protocol(1), endpoint)] == [2.0]


USELESS = {
    "other tokens": completion("Both", {"Both": -0.1, "The": -3.0}),
    "no log-probs": completion("m"),
    "no content": completion("m") | {"choices": [{"index": 0, "message": {"role": "assistant", "content": None}}]},
    "a logprob that is not a number": completion("m", {"m": "high", "M": -1.0}),
}


@pytest.mark.parametrize("kind", USELESS)
def test_a_reply_without_a_preference_is_retried_and_never_scored(tmp_path: Path, kind: str) -> None:
    questions, completions = benchmark(CHANCES)
    with (
        judge_stub(lambda body, before: USELESS[kind] if before == 0 else honest(body)) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        verdicts = judge_alpaca(questions, completions, protocol(8), endpoint)
    assert [verdict.preference for verdict in verdicts] == pytest.approx([1 + chance for chance in CHANCES], abs=1e-9)
    assert endpoint.counts.calls == 16 and endpoint.counts.retried == 8


def test_rows_without_a_verdict_are_named_and_only_they_are_requested_next_time(tmp_path: Path) -> None:
    questions, completions = benchmark(CHANCES)

    def script(body: dict, _: int) -> dict | Fault:
        text = body["messages"][-1]["content"]
        if "question 2" in text:
            return Fault(500, b"oops")
        return USELESS["no log-probs"] if "question 5" in text else honest(body)

    with judge_stub(script) as stub, opened(stub.url, tmp_path) as endpoint, pytest.raises(ValueError) as error:
        judge_alpaca(questions, completions, protocol(8), endpoint)
    assert str(error.value).startswith("no verdict for 2 rows (q2, q5); judge http") and "\n" not in str(error.value)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(8), endpoint)
    assert [verdict.preference for verdict in verdicts] == pytest.approx([1 + chance for chance in CHANCES], abs=1e-9)
    assert len(stub.requests) == 2 and endpoint.counts.replayed == 6


def test_a_judge_without_usable_replies_names_every_row(tmp_path: Path) -> None:
    questions, completions = benchmark(CHANCES)
    with (
        judge_stub(lambda *_: USELESS["other tokens"]) as stub,
        opened(stub.url, tmp_path, max_attempts=1) as endpoint,
        pytest.raises(ValueError, match=r"no verdict for 8 rows \(q0, q1, .*q7\); .*no preference in the reply"),
    ):
        judge_alpaca(questions, completions, protocol(8), endpoint)


def test_an_endpoint_that_refuses_the_key_stops_the_run(tmp_path: Path) -> None:
    questions, completions = benchmark(CHANCES)
    with (
        judge_stub(lambda *_: Fault(401, b"{}")) as stub,
        opened(stub.url, tmp_path, concurrency=1) as endpoint,
        pytest.raises(EndpointError, match="check the key"),
    ):
        judge_alpaca(questions, completions, protocol(8), endpoint)
    assert len(stub.requests) == 1


def test_a_recorded_run_replays_with_sockets_blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions, completions = benchmark(CHANCES)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        online = judge_alpaca(questions, completions, protocol(8), endpoint)

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", blocked)
    with opened(None, tmp_path) as endpoint:
        assert judge_alpaca(questions, completions, protocol(8), endpoint) == online
    assert endpoint.counts.replayed == 8 and endpoint.counts.calls == 0


def test_few_rows_without_a_verdict_are_missing_and_more_stop_the_score(tmp_path: Path) -> None:
    """One of 8 is an eighth: at most_missing .125 it is left NaN, at .124 it stops the score."""
    questions, completions = benchmark(CHANCES)
    broken = [replace(completions[0], text="fine.<|im_end|>"), *completions[1:]]

    def script(body: dict, _: int) -> dict | Fault:
        return Fault(500, b"oops") if "question 5" in body["messages"][-1]["content"] else honest(body)

    with judge_stub(script) as stub, opened(stub.url, tmp_path) as endpoint:
        verdicts = judge_alpaca(questions, completions, protocol(8), endpoint, 0.125)
        assert [verdict.id for verdict in verdicts if not verdict.judged] == ["q5"] == missing(verdicts)
        assert [v.preference for v in verdicts if v.judged] == pytest.approx([1 + c for c in CHANCES if c != 0.05])
        for share, given in ((0.124, completions), (0.125, broken)):
            with pytest.raises(ValueError, match=r"no verdict for . rows .*; at most . of 8 may be missing"):
                judge_alpaca(questions, given, protocol(8), endpoint, share)
        assert missing(judge_alpaca(questions, broken, protocol(8), endpoint, 0.25)) == ["q0", "q5"]
