"""Arena-Hard's games with a judge on loopback: who is A, what a label counts, what is retried or missing."""

import json
import random
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.arena_hard import judge_arena, labels
from focalpo.judging.endpoint import EndpointError
from focalpo.judging.protocol import ArenaProtocol, load_protocol
from focalpo.stages.records import ArenaGame, Completion, Question
from tests.judge_stub import Fault, completion, judge_stub, opened

ROOT = Path(__file__).parent.parent
EVAL = ROOT / "eval"
ANSWER = re.compile(r"<\|The Start of Assistant ([AB])'s Answer\|>\n(.*?)\n<\|The End", re.DOTALL)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)


def protocol(prompts: int) -> ArenaProtocol:
    return replace(load_protocol(EVAL / "arena_hard_v0_1.yaml"), prompts=prompts)


def benchmark(answers: list[str]) -> tuple[list[Question], list[Completion]]:
    """Questions q0, q1, ... with the references "baseline 0", ..., and the model's answers."""
    prompts = [[{"role": "user", "content": f"question {row}"}] for row in range(len(answers))]
    questions = [Question(f"q{row}", prompt, f"baseline {row}") for row, prompt in enumerate(prompts)]
    completions = [
        Completion(f"q{row}", prompt, answer, 3, True)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    return questions, completions


def shown(body: dict) -> dict[str, str]:
    """The answers that the judge sees, by assistant."""
    return dict(ANSWER.findall(body["messages"][1]["content"]))


def reply_with(label: str) -> dict:
    return completion(f"Both try. My final verdict is: [[{label}]]")


def test_three_prompts_by_hand(tmp_path: Path) -> None:
    """The judge likes "good" much, finds "fair" a tie, and likes the baseline a little better than "poor".

    Game 1 has the baseline as A, game 2 the model: good B>>A, A>>B; fair A=B twice; poor A>B, B>A.
    """

    def script(body: dict, _: int) -> dict:
        answers = shown(body)
        (ours,) = [side for side, text in answers.items() if not text.startswith("baseline")]
        theirs = "A" if ours == "B" else "B"
        return reply_with({"good": f"{ours}>>{theirs}", "fair": "A=B", "poor": f"{theirs}>{ours}"}[answers[ours]])

    questions, completions = benchmark(["good", "fair", "poor"])
    with judge_stub(script) as stub, opened(stub.url, tmp_path) as endpoint:
        games = judge_arena(questions, completions, protocol(3), endpoint)
    assert games == [
        ArenaGame("q0", 1, "B>>A", 1.0, 3),
        ArenaGame("q0", 2, "A>>B", 1.0, 3),
        ArenaGame("q1", 1, "A=B", 0.5, 1),
        ArenaGame("q1", 2, "A=B", 0.5, 1),
        ArenaGame("q2", 1, "A>B", 0.0, 1),
        ArenaGame("q2", 2, "B>A", 0.0, 1),
    ]
    assert {body["model"] for body in stub.requests} == {"gpt-4-1106-preview"}
    assert {(body["temperature"], body["max_tokens"]) for body in stub.requests} == {(0, 4096)}
    sides = [(shown(body)["A"], shown(body)["B"]) for body in stub.requests]
    assert sorted(sides)[:2] == [("baseline 0", "good"), ("baseline 1", "fair")] and ("good", "baseline 0") in sides


@pytest.mark.parametrize(
    ("label", "a_wins", "weight"),
    [("A>>B", 1, 3), ("A>B", 1, 1), ("A=B", 0.5, 1), ("B>A", 0, 1), ("B>>A", 0, 3),
     ("B<<A", 1, 3), ("B<A", 1, 1), ("B=A", 0.5, 1), ("A<B", 0, 1), ("A<<B", 0, 3)],
)  # fmt: skip
def test_every_label_gives_the_models_result_in_both_games(
    tmp_path: Path, label: str, a_wins: float, weight: int
) -> None:
    questions, completions = benchmark(["ours"])
    with judge_stub(lambda *_: reply_with(label)) as stub, opened(stub.url, tmp_path) as endpoint:
        first, second = judge_arena(questions, completions, protocol(1), endpoint)
    assert (first.result, first.weight) == (1 - a_wins, weight)
    assert (second.result, second.weight) == (a_wins, weight)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[[A>B]]", {"A>B"}),
        ("[[A>B]] so [[A>B]]", {"A>B"}),
        ("[[A>B]] or [[A>>B]]", {"A>B", "A>>B"}),
        ("[[A]] is fine, [[B=A]]", {"B=A"}),
        ("[[A>>>B]] [[AB]] [[=]] [[a>b]] [A>B] [[A > B]]", set()),
    ],
)
def test_only_the_protocols_labels_are_verdicts(text: str, found: set[str]) -> None:
    assert labels(text, protocol(1)) == found


def test_the_judge_sees_the_published_user_turn_and_braces_survive(tmp_path: Path) -> None:
    code = "def f(): return {answer_1} + {question} {{ answer_2 }} }{"
    questions, completions = benchmark([code])
    with judge_stub(lambda *_: reply_with("A=B")) as stub, opened(stub.url, tmp_path, concurrency=1) as endpoint:
        judge_arena(questions, completions, protocol(1), endpoint)
    assert stub.requests[0]["messages"][0]["role"] == "system"
    assert stub.requests[0]["messages"][1]["content"] == (
        "<|User Prompt|>\nquestion 0\n\n"
        "<|The Start of Assistant A's Answer|>\nbaseline 0\n<|The End of Assistant A's Answer|>\n\n"
        f"<|The Start of Assistant B's Answer|>\n{code}\n<|The End of Assistant B's Answer|>"
    )


def test_a_reply_without_a_label_gets_a_second_turn(tmp_path: Path) -> None:
    questions, completions = benchmark(["ours"])

    def script(body: dict, _: int) -> dict:
        return reply_with("B>A") if len(body["messages"]) == 4 else completion("Let me think about both answers.")

    with judge_stub(script) as stub, opened(stub.url, tmp_path) as endpoint:
        games = judge_arena(questions, completions, protocol(1), endpoint)
    assert [game.verdict for game in games] == ["B>A", "B>A"]
    second = next(body for body in stub.requests if len(body["messages"]) == 4)
    assert second["messages"][2] == {"role": "assistant", "content": "Let me think about both answers."}
    assert second["messages"][3]["content"].startswith("continue your judgment")
    assert len(stub.requests) == 4 and endpoint.counts.retried == 0


def test_the_same_label_twice_is_one_verdict(tmp_path: Path) -> None:
    questions, completions = benchmark(["ours"])
    twice = completion("I lean to [[A>B]]. So my final verdict is [[A>B]]")
    with judge_stub(lambda *_: twice) as stub, opened(stub.url, tmp_path) as endpoint:
        assert [game.verdict for game in judge_arena(questions, completions, protocol(1), endpoint)] == ["A>B"] * 2


@pytest.mark.parametrize("useless", ["either [[A>B]] or [[B>A]]", ""])
def test_conflicting_or_empty_judgements_are_retried(tmp_path: Path, useless: str) -> None:
    questions, completions = benchmark(["ours"])
    with (
        judge_stub(lambda _, before: completion(useless) if before == 0 else reply_with("A>B")) as stub,
        opened(stub.url, tmp_path) as endpoint,
    ):
        games = judge_arena(questions, completions, protocol(1), endpoint)
    assert [game.verdict for game in games] == ["A>B", "A>B"]
    assert endpoint.counts.calls == 4 and endpoint.counts.retried == 2


@pytest.mark.parametrize("useless", ["no label at all", "[[A>B]] but then [[B>A]]", "[[C]]", "[[A>B"])
def test_games_without_a_verdict_are_named_and_the_others_are_kept(tmp_path: Path, useless: str) -> None:
    questions, completions = benchmark(["fine", "odd", "fine"])

    def script(body: dict, _: int) -> dict:
        return completion(useless) if "odd" in body["messages"][1]["content"] else reply_with("A=B")

    with judge_stub(script) as stub:
        with opened(stub.url, tmp_path) as endpoint, pytest.raises(ValueError) as error:
            judge_arena(questions, completions, protocol(3), endpoint)
        assert "2 rows (q1 game 1, q1 game 2)" in str(error.value) and "\n" not in str(error.value)
        asked = len(stub.requests)
        with opened(None, tmp_path) as endpoint:
            games = judge_arena(questions, completions, protocol(3), endpoint, most_missing=0.34)
        assert [(game.id, game.game) for game in games if not game.judged] == [("q1", 1), ("q1", 2)]
    with judge_stub(lambda *_: reply_with("B>>A")) as stub, opened(stub.url, tmp_path) as endpoint:
        games = judge_arena(questions, completions, protocol(3), endpoint)
    assert [game.result for game in games] == [0.5, 0.5, 1.0, 0.0, 0.5, 0.5]
    assert len(stub.requests) == 2 and asked > 4


def test_a_dead_endpoint_stops_the_games_at_once(tmp_path: Path) -> None:
    questions, completions = benchmark(["ours"] * 50)
    with (
        judge_stub(lambda *_: Fault(401, b"{}")) as stub,
        opened(stub.url, tmp_path, concurrency=2) as endpoint,
        pytest.raises(EndpointError, match="check the key"),
    ):
        judge_arena(questions, completions, protocol(50), endpoint)
    assert len(stub.requests) <= 2


def test_completions_that_do_not_match_the_benchmark_are_rejected_before_any_call(tmp_path: Path) -> None:
    questions, completions = benchmark(["a", "b"])
    with judge_stub(lambda *_: reply_with("A=B")) as stub, opened(stub.url, tmp_path) as endpoint:
        with pytest.raises(ValueError, match=r"no completion for 1 rows \(q1\)"):
            judge_arena(questions, completions[:1], protocol(2), endpoint)
        with pytest.raises(ValueError, match="3 completions for 2 prompts"):
            judge_arena(questions, [*completions, completions[0]], protocol(2), endpoint)
        with pytest.raises(ValueError, match=r"the prompts of 1 rows \(q1\) are not the benchmark's"):
            other = replace(completions[1], prompt=[{"role": "user", "content": "something else"}])
            judge_arena(questions, [completions[0], other], protocol(2), endpoint)
        with pytest.raises(ValueError, match="500 prompts, got 2 questions"):
            judge_arena(questions, completions, protocol(500), endpoint)
    assert stub.requests == []


def test_a_killed_run_under_faults_repeats_no_answered_request(tmp_path: Path) -> None:
    dice, lock = random.Random(1), threading.Lock()
    faults = [
        Fault(429, b"{}"),
        Fault(500, b"oops"),
        Fault(body=b'{"choices": [{"mess'),
        completion("[[A>B]] or [[B>A]]"),
        Fault(body=b"{}", headers={"content-length": "999", "connection": "close"}),
    ]

    def script(body: dict, _: int) -> dict | Fault:
        with lock:
            fails, fault = dice.random() < 0.1, dice.choice(faults)
        return fault if fails else reply_with("A>B" if "baseline" in shown(body)["B"] else "B>A")

    questions, completions = benchmark([f"ours {row}" for row in range(60)])
    records = tmp_path / "records.jsonl"
    with judge_stub(script) as stub, opened(stub.url, tmp_path, max_attempts=8, concurrency=8) as endpoint:
        whole = judge_arena(questions, completions, protocol(60), endpoint)
    assert {(game.result, game.weight) for game in whole} == {(1.0, 1)} and len(whole) == 120
    kept = records.read_bytes().splitlines(keepends=True)[:70]
    records.write_bytes(b"".join(kept) + b'{"id": "torn')
    good = sum(json.loads(line)["outcome"] == "good" for line in kept)
    with judge_stub(script) as stub, opened(stub.url, tmp_path, max_attempts=8, concurrency=8) as endpoint:
        assert judge_arena(questions, completions, protocol(60), endpoint) == whole
    assert endpoint.counts.replayed == good
    assert len(stub.requests) == 120 - good + endpoint.counts.retried
    answered = [row["id"] for row in map(json.loads, records.read_text().splitlines()) if row["outcome"] == "good"]
    assert len(answered) == len(set(answered)) == 120


def test_a_recorded_run_replays_with_sockets_blocked_for_any_order_of_completions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Includes games with a second turn."""

    def script(body: dict, _: int) -> dict:
        no_label = len(body["messages"]) == 2 and "odd" in body["messages"][1]["content"]
        return completion("Hard to say.") if no_label else reply_with("A>B")

    questions, completions = benchmark(["odd", "fine", "better"])
    with judge_stub(script) as stub, opened(stub.url, tmp_path) as endpoint:
        online = judge_arena(questions, completions, protocol(3), endpoint)

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", blocked)
    with opened(None, tmp_path) as endpoint:
        assert judge_arena(questions, completions[::-1], protocol(3), endpoint) == online
    assert endpoint.counts.replayed == 8 and endpoint.counts.calls == 0


KILLED = """
import sys
from pathlib import Path
from tests.test_judging_arena_hard import benchmark, judge_arena, opened, protocol

with opened(sys.argv[1], Path(sys.argv[2]), concurrency=1) as endpoint:
    judge_arena(*benchmark([f"ours {row}" for row in range(8)]), protocol(8), endpoint)
"""


def test_a_killed_run_repeats_only_the_request_in_flight(tmp_path: Path) -> None:
    """SIGKILL while the sixth of sixteen games is being judged; five are recorded."""
    running: list[subprocess.Popen] = []

    def script(_: dict, __: int) -> dict:
        if len(stub.requests) == 6 and running[0].poll() is None:
            running[0].kill()
            running[0].wait()
        return reply_with("A>B")

    with judge_stub(script) as stub:
        running.append(subprocess.Popen([sys.executable, "-c", KILLED, stub.url, str(tmp_path)], cwd=ROOT))
        assert running[0].wait(timeout=120) == -9
        assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 5
        with opened(stub.url, tmp_path) as endpoint:
            games = judge_arena(*benchmark([f"ours {row}" for row in range(8)]), protocol(8), endpoint)
    assert [game.verdict for game in games] == ["A>B"] * 16
    assert endpoint.counts.replayed == 5 and endpoint.counts.calls == 11
    assert sorted(stub.times().values()) == [1] * 15 + [2]
