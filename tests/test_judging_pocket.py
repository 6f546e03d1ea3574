"""Both benchmarks end to end with the pocket judge, as the pipeline runs it: its faults change no verdict."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.arena_hard import judge_arena
from focalpo.judging.benchmarks import read_questions
from focalpo.judging.endpoint import Counts
from focalpo.judging.judgements import written
from focalpo.judging.protocol import ArenaProtocol, Protocol, load_protocol
from focalpo.judging.read_back import read_replies
from focalpo.pocket.benchmarks import write_benchmark
from focalpo.pocket.world import draw_tasks
from focalpo.pocket.writers import WRITERS, write
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question
from tests.judge_stub import opened

ROOT = Path(__file__).parent.parent
PROMPTS = 60
Benchmark = tuple[list[Question], list[Completion], Protocol]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)


@contextmanager
def pocket_judge(folder: Path, faults: str) -> Iterator[str]:
    ready = folder / "url"
    command = [sys.executable, "-m", "focalpo.pocket.judge", "--ready-file", str(ready), "--faults", faults]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            assert running.poll() is None, "the judge ended before it was ready"
            time.sleep(0.01)
        yield ready.read_text()
    finally:
        running.terminate()
        running.wait()


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, Benchmark]:
    """60 prompts of both pocket benchmarks, answered alternately by answers to other prompts and padded references."""

    def made(name: str, kind: str) -> Benchmark:
        folder = tmp_path_factory.mktemp(kind)
        write_benchmark(kind, folder, rows=PROMPTS)
        protocol = replace(load_protocol(ROOT / f"eval/{name}.yaml"), prompts=PROMPTS)
        questions = read_questions(protocol, folder)
        rng = random.Random(name)
        answers = [write(task, WRITERS["mid"], rng) for task in draw_tasks(PROMPTS, name)]
        texts = [
            f"{question.reference} so" if row % 2 else answer
            for row, (question, answer) in enumerate(zip(questions, answers, strict=True))
        ]
        completions = [Completion(q.id, q.prompt, text, 3, True) for q, text in zip(questions, texts, strict=True)]
        return questions, completions, protocol

    return made("pocket_alpaca_eval", "alpaca_eval"), made("pocket_arena_hard", "arena_hard")


def judged(
    benchmarks: tuple[Benchmark, Benchmark], folder: Path, faults: str
) -> tuple[list[AlpacaVerdict], list[ArenaGame], Counts]:
    folder.mkdir()
    # All 16 attempts of a request fail with probability 0.3^16.
    with pocket_judge(folder, faults) as url, opened(url, folder, concurrency=8, max_attempts=16) as endpoint:
        return judge_alpaca(*benchmarks[0], endpoint), judge_arena(*benchmarks[1], endpoint), endpoint.counts


def attempts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def user_turn(question: Question, completion: Completion, protocol: ArenaProtocol, game: int) -> str:
    first, second = (question.reference, completion.text)[:: 1 if game == 1 else -1]
    asked = question.prompt[-1]["content"]
    return protocol.user_template.format(question=asked, answer_1=first, answer_2=second)


def test_a_judge_with_faults_in_three_of_ten_calls_gives_the_verdicts_of_one_without_faults(
    benchmarks: tuple[Benchmark, Benchmark], tmp_path: Path
) -> None:
    verdicts, games, calm = judged(benchmarks, tmp_path / "calm", "")
    assert (len(verdicts), len(games)) == (60, 120)
    assert calm == Counts(calls=180, retried=0, replayed=0, failed=0)
    assert len({verdict.preference for verdict in verdicts}) > 20 and len({game.verdict for game in games}) == 5

    same_verdicts, same_games, counts = judged(benchmarks, tmp_path / "fire", "429=0.05,500=0.15,garbage=0.1")
    assert same_verdicts == verdicts
    recorded = attempts(tmp_path / "fire")
    second = {
        body["messages"][1]["content"] for body in (row["request"] for row in recorded) if len(body["messages"]) > 2
    }
    questions, completions, protocol = benchmarks[1]
    turns = [user_turn(q, c, protocol, n) for q, c in zip(questions, completions, strict=True) for n in (1, 2)]
    assert second <= set(turns) and 0 < len(second) < 40
    assert same_games == games

    good = [row["id"] for row in recorded if row["outcome"] == "good"]
    assert len(good) == len(set(good)) == 180 + len(second)
    assert counts == Counts(calls=len(recorded), retried=len(recorded) - len(good), replayed=0, failed=0)
    assert counts.retried > 30


def test_what_the_judge_wrote_and_saw_first_is_read_back_from_the_records(
    benchmarks: tuple[Benchmark, Benchmark], tmp_path: Path
) -> None:
    """m is the answer shown first, so the name that it wrote and the order give the verdict's winner again."""
    verdicts, games, _ = judged(benchmarks, tmp_path / "run", "garbage=0.1")
    replies = read_replies(tmp_path / "run" / "records.jsonl")
    orders = set()
    for verdict, (said,) in zip(verdicts, written(*benchmarks[0], replies), strict=True):
        assert said is not None and said.text in ("m", "M")
        assert ((said.text == "m") == said.first) == (verdict.preference > 1.5)
        orders.add(said.first)
    assert orders == {True, False}
    said = [each for pair in written(*benchmarks[1], replies) for each in pair]
    assert all(each.text.endswith(f"[[{game.verdict}]]") for each, game in zip(said, games, strict=True))
    assert [each.first for each in said] == [game.game == 2 for game in games]
    assert 0 < sum("continue your judgment" in each.text for each in said) < 60

    questions, completions, protocol = benchmarks[1]
    other = [replace(each, text=f"{each.text} and more") for each in completions]
    assert written(questions, other, protocol, replies) == [[None, None]] * PROMPTS, "nobody judged these"
