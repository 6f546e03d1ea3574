"""AlpacaEval and Arena-Hard at full size with a judge that fails a tenth of its calls, in a run killed half-way."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.dispatch import judge
from focalpo.judging.protocol import load_protocol
from focalpo.pocket.judge import GARBAGE, complete
from focalpo.pocket.world import draw_tasks
from focalpo.pocket.writers import WRITERS, write
from focalpo.stages.records import Completion, Question
from tests.judge_stub import Fault, Stub, judge_stub, opened

ROOT = Path(__file__).parent.parent
TIMEOUT = 1.0
JUDGE = """
import sys
from pathlib import Path
from focalpo.judging import endpoint as room
from tests.judge_stub import opened
from tests.test_judging_at_scale import TIMEOUT, tasks
from focalpo.judging.dispatch import judge
from focalpo.stages.records import write_records

url, folder, *prompts = sys.argv[1:]
room.FIRST_WAIT_SECONDS = 0.001
with opened(url, Path(folder), concurrency=8, max_attempts=12, timeout_seconds=TIMEOUT) as endpoint:
    for name, task in tasks(*map(int, prompts)).items():
        write_records(Path(folder) / f"{name}.parquet", judge(*task, endpoint))
"""


def tasks(alpaca_prompts: int, arena_prompts: int) -> dict[str, tuple]:
    """Both benchmarks at the given size, in the pocket language: one writer answers, another writes the references."""
    found = {}
    for kind, prompts in (("alpaca_eval", alpaca_prompts), ("arena_hard", arena_prompts)):
        protocol = replace(load_protocol(ROOT / f"eval/pocket_{kind}.yaml"), prompts=prompts)
        rng = random.Random(kind)
        questions, answers = [], []
        for n, task in enumerate(draw_tasks(prompts, kind)):
            prompt = [{"role": "user", "content": task.prompt}]
            questions.append(Question(str(n), prompt, write(task, WRITERS["expert"], rng)))
            answers.append(Completion(str(n), prompt, write(task, WRITERS["mid"], rng), 3, True))
        found[kind] = (questions, answers, protocol)
    return found


def failing(body: dict, before: int) -> dict | Fault:
    """One call in ten fails, in one of five ways; which ones fail is a function of the request."""
    reply = complete(body)
    draw = random.Random(f"{json.dumps(body, sort_keys=True)} {before}")
    if draw.random() >= 0.1:
        return reply
    whole = json.dumps(reply).encode()
    nonsense = complete(body, garbage=True)
    assert nonsense["choices"][0]["message"]["content"] == GARBAGE
    return draw.choice(
        [
            Fault(429, b"{}", {"retry-after": "0"}),
            Fault(500, b"oops"),
            Fault(body=whole, seconds=1.5 * TIMEOUT),
            Fault(body=whole[: len(whole) // 2]),
            Fault(body=json.dumps(nonsense).encode()),
        ]
    )


def run(stub: Stub, folder: Path, prompts: tuple[int, int]) -> subprocess.Popen:
    command = [sys.executable, "-c", JUDGE, stub.url, str(folder), *map(str, prompts)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answered(folder: Path) -> list[str]:
    """Every request with a recorded good reply, once per good reply."""
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    attempts = [json.loads(line) for line in lines if line.endswith("\n")]
    return [json.dumps(row["request"], sort_keys=True) for row in attempts if row["outcome"] == "good"]


@pytest.mark.slow
def test_killed_and_resumed_under_faults_every_judgement_gets_a_verdict_and_no_answer_is_requested_twice(
    tmp_path: Path,
) -> None:
    prompts = 805, 500
    calm, fire = tmp_path / "calm", tmp_path / "fire"
    calm.mkdir()
    fire.mkdir()
    with judge_stub(lambda body, _: complete(body)) as stub, opened(stub.url, calm, concurrency=8) as endpoint:
        expected = {name: judge(*task, endpoint) for name, task in tasks(*prompts).items()}
    assert [len(found) for found in expected.values()] == [prompts[0], 2 * prompts[1]]

    with judge_stub(failing) as stub:
        process = run(stub, fire, prompts)
        deadline = time.monotonic() + 120
        while len(stub.requests) < sum(prompts) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before, asked_before = answered(fire), len(stub.requests)
        assert before and not (fire / "arena_hard.parquet").exists()

        process = run(stub, fire, prompts)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        again = Counter(json.dumps(body, sort_keys=True) for body in stub.requests[asked_before:])
    assert not [request for request in before if request in again], "paid for twice"
    after = answered(fire)
    assert len(after) == len(set(after)) and set(before) < set(after)
    failed = len(stub.requests) - len(after)
    assert 0.05 * len(stub.requests) < failed

    # The recording alone gives the verdicts of a judge without faults: none is guessed, none is missing.
    replay = tmp_path / "replay"
    replay.mkdir()
    (fire / "records.jsonl").rename(replay / "records.jsonl")
    with opened(None, replay) as endpoint:
        assert {name: judge(*task, endpoint) for name, task in tasks(*prompts).items()} == expected
