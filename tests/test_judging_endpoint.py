"""The judge's endpoint under faults: each ends in a usable reply or a named failure, nothing is paid for twice."""

import json
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.endpoint import Counts, Endpoint, EndpointError, JudgeError
from tests.judge_stub import Fault, completion, judge_stub, opened

KEY = "sk-a-very-secret-key-0123456789"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)


def requires_yes(reply: dict) -> str | None:
    return None if reply["choices"][0]["message"]["content"] == "yes" else "not a yes"


def ask(endpoint: Endpoint, question: str) -> str:
    client = endpoint.client(requires_yes)
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="judge", messages=messages).choices[0].message.content


def lines(records: Path) -> list[dict]:
    return [json.loads(line) for line in records.read_text().splitlines()]


FAULTS = {
    "429": Fault(429, b'{"error": {"message": "slow down"}}', {"retry-after": "0"}),
    "429 with an empty body": Fault(429, b""),
    "429 with a date": Fault(429, b"{}", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429 with an invalid wait": Fault(429, b"{}", {"retry-after": "\u00b2"}),
    "500": Fault(500, b"<html>\noops\n</html>"),
    "truncated JSON": Fault(body=json.dumps(completion("yes")).encode()[:40]),
    "endless brackets": Fault(body=b"[" * 100_000),
    "invalid UTF-8": Fault(body=b'\xff\xfe{"choices"'),
    "NaN": Fault(body=json.dumps(completion("yes", {"m": float("nan")})).encode()),
    "a list": Fault(body=b"[]"),
    "no choices": Fault(body=b'{"error": {"message": "overloaded"}, "choices": []}'),
    "no token count": Fault(body=json.dumps(completion("yes") | {"usage": None}).encode()),
    "cut off": Fault(body=b"{}", headers={"content-length": "999", "connection": "close"}),
    "nonsense": Fault(body=json.dumps(completion("perhaps")).encode()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_retried_recorded_and_never_used_as_a_reply(tmp_path: Path, fault: str) -> None:
    records = tmp_path / "records.jsonl"
    with (
        judge_stub(lambda _, before: FAULTS[fault] if before < 2 else completion("yes")) as stub,
        opened(stub.url, tmp_path, timeout_seconds=0.5) as endpoint,
    ):
        assert ask(endpoint, "is it?") == "yes"
    assert endpoint.counts == Counts(calls=3, retried=2, replayed=0, failed=0)
    assert [line["outcome"] == "good" for line in lines(records)] == [False, False, True]
    assert lines(records)[2]["request"]["messages"][0]["content"] == "is it?"


def test_the_models_that_answered_are_known_also_from_a_recording(tmp_path: Path) -> None:
    def script(body: dict, _: int) -> dict:
        return completion("yes") | {"model": f"model of {body['messages'][0]['content']}"}

    with judge_stub(script) as stub, opened(stub.url, tmp_path) as endpoint:
        ask(endpoint, "one")
        assert endpoint.served == {"model of one"}
        ask(endpoint, "two")
    with opened(None, tmp_path) as offline:
        ask(offline, "two")
        ask(offline, "one")
    assert offline.served == endpoint.served == {"model of one", "model of two"}


def test_a_slow_reply_times_out_and_is_retried(tmp_path: Path) -> None:
    slow = Fault(body=json.dumps(completion("yes")).encode(), seconds=0.6)
    with (
        judge_stub(lambda _, before: slow if before == 0 else completion("yes")) as stub,
        opened(stub.url, tmp_path, timeout_seconds=0.2) as endpoint,
    ):
        assert ask(endpoint, "is it?") == "yes"
    assert lines(tmp_path / "records.jsonl")[0]["outcome"] == "no reply in 0.2 s"


def test_waits_double_with_jitter_up_to_half_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(endpoint_module.time, "sleep", waits.append)
    with (
        judge_stub(lambda *_: FAULTS["nonsense"]) as stub,
        opened(stub.url, tmp_path, max_attempts=9) as endpoint,
        pytest.raises(JudgeError),
    ):
        ask(endpoint, "is it?")
    waits = [wait for wait in waits if wait]  # the stub sleeps for 0 s
    assert len(waits) == 8
    for wait, full in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.5 * full <= wait <= 1.5 * full


def test_a_failed_judgement_gives_one_line_that_names_the_endpoint(tmp_path: Path) -> None:
    with (
        judge_stub(lambda *_: FAULTS["500"]) as stub,
        opened(stub.url, tmp_path) as endpoint,
        pytest.raises(JudgeError) as error,
    ):
        ask(endpoint, "is it?")
    assert endpoint.counts == Counts(calls=4, retried=3, replayed=0, failed=1)
    message = str(error.value)
    assert isinstance(error.value, ValueError)
    assert stub.url in message and "HTTP 500" in message and "run again" in message and "\n" not in message


def test_a_bad_request_is_not_retried_and_does_not_stop_the_others(tmp_path: Path) -> None:
    too_long = Fault(400, b'{"error": {"message": "the prompt is too long"}}')
    with (
        judge_stub(lambda body, _: too_long if "long" in str(body) else completion("yes")) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        with pytest.raises(JudgeError, match="too long"):
            ask(endpoint, "a long one")
        assert ask(endpoint, "another") == "yes"
    assert endpoint.counts.calls == 2


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (Fault(401, b"{}"), "check the key"),
        (Fault(403, b"{}"), "check the key's permissions"),
        (Fault(404, b"{}"), "check the address"),
        (Fault(429, b'{"error": {"code": "insufficient_quota"}}'), "quota"),
    ],
)
def test_a_refusing_endpoint_gets_only_one_request(tmp_path: Path, fault: Fault, remedy: str) -> None:
    with (
        judge_stub(lambda *_: fault) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        for question in ("one", "two", "three"):
            with pytest.raises(EndpointError, match=remedy):
                ask(endpoint, question)
    assert len(stub.requests) == 1


def test_an_unreachable_server_is_tried_for_one_call_only(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with opened(url, tmp_path) as endpoint:
        for question in ("one", "two"):
            with pytest.raises(EndpointError, match="no connection.*start it or correct its address"):
                ask(endpoint, question)
    assert endpoint.counts.calls == 4


def test_the_key_is_sent_but_reaches_no_recording_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "records.jsonl"
    monkeypatch.setenv("JUDGE_KEY", KEY)
    quoting = {
        "one": Fault(400, f'{{"error": {{"message": "key {KEY} was used"}}}}'.encode()),
        "two": Fault(body=json.dumps(completion("yes") | {"id": KEY}).encode()),
        "three": Fault(401, f'{{"error": {{"message": "wrong key: {KEY}"}}}}'.encode()),
    }
    with (
        judge_stub(lambda body, _: quoting[body["messages"][0]["content"]]) as stub,
        opened(stub.url, tmp_path, api_key_env="JUDGE_KEY") as endpoint,
    ):
        with pytest.raises(JudgeError) as first:
            ask(endpoint, "one")
        ask(endpoint, "two")
        with pytest.raises(EndpointError) as second:
            ask(endpoint, "three")
    assert stub.authorizations == [f"Bearer {KEY}"] * 3
    assert len(lines(records)) == 3
    for text in (records.read_text(), str(first.value), str(second.value)):
        assert KEY not in text and "uthorization" not in text and "Bearer" not in text


@pytest.mark.parametrize("written", ["sk/a+secret=key", r"sk\/a+secret=key", r"sk/a\u002Bsecret\u003dkey"])
def test_a_key_that_the_server_quotes_with_json_escapes_is_redacted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk/a+secret=key")
    with (
        judge_stub(lambda *_: Fault(400, f'{{"error": "no key {written}."}}'.encode())) as stub,
        opened(stub.url, tmp_path, api_key_env="JUDGE_KEY") as endpoint,
        pytest.raises(JudgeError, match=r"no key \[key\]\.") as error,
    ):
        ask(endpoint, "is it?")
    for text in ((tmp_path / "records.jsonl").read_text(), str(error.value)):
        assert "secret" not in text


@pytest.mark.parametrize("key", ["0", "token", "yes"])
def test_a_placeholder_key_is_not_redacted_from_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    with (
        judge_stub(lambda *_: completion("yes", {"yes": -0.01})) as stub,
        opened(stub.url, tmp_path, api_key_env="JUDGE_KEY") as endpoint,
    ):
        assert ask(endpoint, "is it?") == "yes"
    assert lines(tmp_path / "records.jsonl")[0]["reply"] == completion("yes", {"yes": -0.01})


def test_one_question_from_many_threads_is_paid_for_once(tmp_path: Path) -> None:
    with (
        judge_stub(lambda *_: Fault(body=json.dumps(completion("yes")).encode(), seconds=0.05)) as stub,
        opened(stub.url, tmp_path) as endpoint,
        ThreadPoolExecutor(8) as pool,
    ):
        assert list(pool.map(lambda _: ask(endpoint, "is it?"), range(8))) == ["yes"] * 8
    assert endpoint.counts == Counts(calls=1, retried=0, replayed=7, failed=0)


def test_ten_percent_of_failing_calls_cost_time_but_no_answer(tmp_path: Path) -> None:
    dice, lock = random.Random(0), threading.Lock()

    def script(_: dict, __: int) -> dict | Fault:
        with lock:
            fails, kind = dice.random() < 0.1, dice.choice(["429", "500", "truncated JSON", "cut off", "nonsense"])
        return FAULTS[kind] if fails else completion("yes")

    with (
        judge_stub(script) as stub,
        opened(stub.url, tmp_path, max_attempts=8, timeout_seconds=0.5) as endpoint,
    ):
        client = endpoint.client(requires_yes)

        def judged(number: int) -> str:
            messages = [{"role": "user", "content": f"question {number}"}]
            return client.chat.completions.create(model="judge", messages=messages).choices[0].message.content

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(judged, range(300))) == ["yes"] * 300
    counts = endpoint.counts
    assert counts.failed == 0 and counts.retried >= 15
    assert counts.calls == 300 + counts.retried == len(stub.requests)
    good = [line["id"] for line in lines(tmp_path / "records.jsonl") if line["outcome"] == "good"]
    assert len(good) == len(set(good)) == 300


def test_a_missing_key_and_a_wrong_address_are_reported_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="JUDGE_KEY holds no key"):
        opened("http://127.0.0.1:1/v1", tmp_path, api_key_env="JUDGE_KEY")
    with pytest.raises(ValueError, match="write it as http://HOST:PORT/v1"):
        opened("localhost:8000", tmp_path)


def test_backoff_does_not_advance_the_global_random_generator(tmp_path: Path) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    with (
        judge_stub(lambda _, before: FAULTS["500"] if before < 2 else completion("yes")) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        ask(endpoint, "is it?")
    assert random.random() == expected
