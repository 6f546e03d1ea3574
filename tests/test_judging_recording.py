"""A judge's recording: resumed without repeated requests, replayed without network and key, rejected if broken."""

import socket
from pathlib import Path

import pytest

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.endpoint import Counts, LostError
from tests.judge_stub import completion, judge_stub, opened
from tests.test_judging_endpoint import KEY, ask, lines


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)


def test_a_resumed_run_repeats_no_call_even_after_a_torn_line(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    with judge_stub(lambda *_: completion("yes")) as stub:
        with opened(stub.url, tmp_path) as endpoint:
            for number in range(5):
                ask(endpoint, f"question {number}")
        records.write_bytes(records.read_bytes()[:-7])  # killed while writing the fifth
        with opened(stub.url, tmp_path) as endpoint:
            assert [ask(endpoint, f"question {number}") for number in range(6)] == ["yes"] * 6
    assert endpoint.counts == Counts(calls=2, retried=0, replayed=4, failed=0)
    asked = [body["messages"][0]["content"] for body in stub.requests]
    assert asked == [f"question {number}" for number in (0, 1, 2, 3, 4, 4, 5)]
    assert len(lines(records)) == 6


def test_a_recorded_reply_that_fails_another_check_is_requested_again(tmp_path: Path) -> None:
    with judge_stub(lambda _, before: completion("perhaps" if before == 0 else "yes")) as stub:
        with opened(stub.url, tmp_path) as endpoint:
            client = endpoint.client(lambda reply: None)
            client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "is it?"}])
        with opened(stub.url, tmp_path) as endpoint:
            assert ask(endpoint, "is it?") == "yes"
    assert endpoint.counts == Counts(calls=1, retried=0, replayed=0, failed=0)


def test_a_recorded_run_replays_without_network_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = tmp_path / "records.jsonl"
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with (
        judge_stub(lambda *_: completion("yes")) as stub,
        opened(stub.url, tmp_path, api_key_env="JUDGE_KEY") as online,
    ):
        ask(online, "is it?")
    monkeypatch.delenv("JUDGE_KEY")
    before = records.read_bytes()

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", blocked)
    with opened(None, tmp_path, api_key_env="JUDGE_KEY") as offline:
        assert ask(offline, "is it?") == "yes"
        with pytest.raises(LostError, match="holds no usable reply"):
            ask(offline, "something new")
    assert offline.counts == Counts(calls=0, retried=0, replayed=1, failed=1)
    assert records.read_bytes() == before


@pytest.mark.parametrize("line", ['{"id": ', "[]", "3", "{}", '{"id": "a", "outcome": "good"}', ""])
def test_an_invalid_line_is_named(tmp_path: Path, line: str) -> None:
    attempt = '{"id": "a", "outcome": "HTTP 500", "request": {}, "reply": ""}'
    (tmp_path / "records.jsonl").write_text(f"{attempt}\n{line}\n{attempt}\n")
    with pytest.raises(ValueError, match=r"records.jsonl, line 2 is not a recorded attempt; delete that line"):
        opened(None, tmp_path)


def test_a_torn_last_line_hides_nothing_from_a_replay_and_stays_in_the_file(tmp_path: Path) -> None:
    with judge_stub(lambda *_: completion("yes")) as stub, opened(stub.url, tmp_path) as endpoint:
        ask(endpoint, "is it?")
    records = tmp_path / "records.jsonl"
    records.write_bytes(records.read_bytes() + b'{"id": "torn')
    before = records.read_bytes()
    with opened(None, tmp_path) as offline:
        assert ask(offline, "is it?") == "yes"
    assert records.read_bytes() == before


def test_half_a_character_in_a_reply_is_recorded_and_replayed(tmp_path: Path) -> None:
    half = completion("yes") | {"system_fingerprint": "\ud83d"}
    with judge_stub(lambda *_: half) as stub, opened(stub.url, tmp_path) as endpoint:
        assert ask(endpoint, "is it?") == "yes"
    with opened(None, tmp_path) as offline:
        assert ask(offline, "is it?") == "yes"
    assert lines(tmp_path / "records.jsonl")[0]["reply"] == half
