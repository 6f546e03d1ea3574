"""Judging in batches, against a stand-in server: what fails or expires is sent again, what was paid for never."""

import json
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from focalpo.judging.dispatch import judge
from focalpo.judging.endpoint import Endpoint, EndpointError
from focalpo.judging.price import Price
from focalpo.judging.protocol import load_protocol
from focalpo.stages.records import Completion, Question
from tests.batch_stub import BatchServer
from tests.fake_clock import FakeClock, fake_clock
from tests.judge_stub import Fault, completion, opened

EVAL = Path(__file__).parent.parent / "eval"
KEY = "sk-planted-Q7x93kfPz-do-not-print-me"
PROMPTS = 6
GAMES = 2 * PROMPTS
PRICE = Price(input_usd=10.0, output_usd=30.0, reply_tokens=300, seconds_per_request=0.5, seconds_per_reply_token=0.03)
HALF = 0.5 * (10 * 10 + 1 * 30) / 1e6
"""USD of one reply of the stub, 10 tokens in and 1 out, in a batch."""
TASK = (
    [Question(str(n), [{"role": "user", "content": f"do {n}"}], "done") for n in range(PROMPTS)],
    [Completion(str(n), [{"role": "user", "content": f"do {n}"}], "no", 1, True) for n in range(PROMPTS)],
    replace(load_protocol(EVAL / "arena_hard_v0_1.yaml"), prompts=PROMPTS),
)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return fake_clock(monkeypatch)


def verdict(body: dict, _: int) -> dict:
    return completion("My final verdict is: [[A>B]]")


def batched(folder: Path, server: BatchServer, **changed: object) -> Endpoint:
    given = {"api_key_env": "JUDGE_KEY", "batch": True, "price": PRICE} | changed
    endpoint = opened("https://judge.example/v1", folder, **given)
    assert endpoint._batches is not None and endpoint._http is not None
    client = endpoint._batches._client
    endpoint._batches._client = client.with_options(http_client=httpx2.Client(transport=httpx2.MockTransport(server)))
    return endpoint


def judged(endpoint: Endpoint) -> list[str]:
    with endpoint:
        endpoint.fill([lambda: judge(*TASK, endpoint)])
        return [game.verdict for game in judge(*TASK, endpoint)]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_one_batch_answers_all_at_half_the_price_and_is_recorded(tmp_path: Path, clock: FakeClock) -> None:
    server = BatchServer(verdict, KEY)
    endpoint = batched(tmp_path, server)
    assert judged(endpoint) == ["A>B"] * GAMES
    assert [len(names) for names in server.sent] == [GAMES] and clock.now == 30.0, "two looks, half a minute apart"
    assert endpoint.spending.usd == pytest.approx(GAMES * HALF)
    assert {line["batch"] for line in lines(tmp_path)} == {"batch_0"}
    with opened(None, tmp_path, price=PRICE) as offline:
        assert [game.verdict for game in judge(*TASK, offline)] == ["A>B"] * GAMES
    assert offline.spending.usd == pytest.approx(GAMES * HALF)
    assert judged(batched(tmp_path, server)) == ["A>B"] * GAMES and len(server.sent) == 1
    for file in tmp_path.iterdir():
        assert KEY not in file.read_text()


def test_a_second_turn_and_a_failed_check_go_into_the_next_batch_alone(tmp_path: Path) -> None:
    """Prompt 0's games need a second turn; prompt 1's first replies conflict with themselves."""

    def script(body: dict, before: int) -> dict:
        text = body["messages"][1]["content"]
        if "do 0" in text and len(body["messages"]) == 2:
            return completion("I need another turn.")
        if "do 1" in text and before == 0:
            return completion("[[A>B]] or [[B>A]]")
        return completion("[[A=B]]")

    server = BatchServer(script, KEY)
    assert judged(batched(tmp_path, server)) == ["A=B"] * GAMES
    assert [len(names) for names in server.sent] == [GAMES, 4]
    assert sum(line["outcome"].startswith("conflicting") for line in lines(tmp_path)) == 2


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_an_expired_batch_left_out_is_sent_again_and_nothing_else(tmp_path: Path, end: str) -> None:
    server = BatchServer(verdict, KEY, ends=(end,))
    endpoint = batched(tmp_path, server)
    assert judged(endpoint) == ["A>B"] * GAMES
    first, second = server.sent
    assert len(first) == GAMES and set(second) == set(first[GAMES // 2 :])
    assert endpoint.spending.usd == pytest.approx(GAMES * HALF), "what was not executed is not billed"


def test_rows_of_the_error_file_are_tried_again_or_given_up(tmp_path: Path) -> None:
    busy = Fault(500, b'{"error": {"message": "try again"}}')
    filtered = Fault(400, b'{"error": {"message": "filtered", "code": "content_filter"}}')

    def script(body: dict, before: int) -> dict | Fault:
        text = body["messages"][1]["content"]
        if "do 2" in text:
            return filtered
        return busy if "do 3" in text and before == 0 else verdict(body, before)

    server = BatchServer(script, KEY)
    endpoint = batched(tmp_path, server)
    with pytest.raises(ValueError, match=r"2 game 1, 2 game 2.*no usable reply in its batches"):
        judged(endpoint)
    assert [len(names) for names in server.sent] == [GAMES, 2]
    assert endpoint.counts.failed == 2 and endpoint.counts.retried == 2


def test_a_refused_field_stops_after_the_first_batch(tmp_path: Path) -> None:
    error = f'{{"error": {{"message": "no max_tokens, {KEY}", "param": "max_tokens"}}}}'
    server = BatchServer(lambda *_: Fault(400, error.encode()), KEY)
    with pytest.raises(EndpointError, match=r"no max_tokens, \[key\].*change max_tokens by"):
        judged(batched(tmp_path, server))
    assert len(server.sent) == 1 and KEY not in (tmp_path / "records.jsonl").read_text()


def test_a_batch_that_the_server_does_not_accept_stops_with_its_reason(tmp_path: Path) -> None:
    server = BatchServer(verdict, KEY, ends=("failed",))
    with pytest.raises(EndpointError, match="batch batch_0 failed: The provided model is not supported by the Batch"):
        judged(batched(tmp_path, server))
    assert judged(batched(tmp_path, server)) == ["A>B"] * GAMES, "corrected, it is sent again"


@pytest.mark.parametrize(
    ("moment", "batches"),
    [("GET batches", 1), ("GET files", 1), ("POST files", 1), ("POST batches", 1)],
)
def test_a_run_killed_at_any_moment_sends_nothing_twice(tmp_path: Path, moment: str, batches: int) -> None:
    server = BatchServer(verdict, KEY)
    server.die_at = moment
    with pytest.raises(KeyboardInterrupt):
        judged(batched(tmp_path, server))
    server.die_at = None
    with (tmp_path / "batches.jsonl").open("a") as file:
        file.write('{"token": "torn')
    endpoint = batched(tmp_path, server)
    assert judged(endpoint) == ["A>B"] * GAMES
    assert len(server.sent) == batches and endpoint.spending.usd == pytest.approx(GAMES * HALF)


def test_a_batch_whose_answer_got_lost_is_found_again_by_its_token(tmp_path: Path) -> None:
    """The server has made the batch, but the run was killed before it could write down the batch's name."""
    server = BatchServer(verdict, KEY)
    server.die_at = "GET batches"
    with pytest.raises(KeyboardInterrupt):
        judged(batched(tmp_path, server))
    server.die_at = None
    notes = (tmp_path / "batches.jsonl").read_text().splitlines(keepends=True)
    assert "batch" in json.loads(notes[1])
    (tmp_path / "batches.jsonl").write_text(notes[0])
    assert judged(batched(tmp_path, server)) == ["A>B"] * GAMES
    assert len(server.sent) == 1


def test_replies_that_were_recorded_before_a_kill_are_not_counted_twice(tmp_path: Path) -> None:
    server = BatchServer(lambda *_: completion("[[A>B]] or [[B>A]]"), KEY)
    with pytest.raises(ValueError, match="no verdict"):
        judged(batched(tmp_path, server, max_attempts=1))
    recorded = lines(tmp_path)
    notes = (tmp_path / "batches.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "batches.jsonl").write_text("".join(notes[:-1]))  # killed before it was noted that they are
    with pytest.raises(ValueError, match="no verdict"):
        judged(batched(tmp_path, server, max_attempts=1))
    assert lines(tmp_path) == recorded and len(server.sent) == 1


def test_a_budget_makes_batches_that_fit_it(tmp_path: Path) -> None:
    """The bound of a game is about USD 0.09, of which half in a batch: a budget for seven games, then for all."""
    server = BatchServer(verdict, KEY)
    endpoint = batched(tmp_path, server, budget_usd=0.5)
    assert judged(endpoint) == ["A>B"] * GAMES and len(server.sent) > 1
    assert endpoint.spending.usd <= 0.5
    with pytest.raises(EndpointError, match=r"the budget is used up; raise judge.endpoint.budget_usd"):
        judged(batched(tmp_path / "other", server, budget_usd=0.01))
