"""A small table run whose stages are sealed but were never computed: real plan and keys, made-up records."""

import random
from dataclasses import replace
from pathlib import Path

from focalpo.config.compose import compose_table
from focalpo.judging.dispatch import judged_by
from focalpo.judging.protocol import AlpacaProtocol, JudgedProtocol
from focalpo.judging.read_back import requests_of
from focalpo.judging.recording import GOOD, Recording, request_id
from focalpo.judging.requests import body_of, protocol_of
from focalpo.planning.stages import in_order, report_stage, table_rows
from focalpo.planning.table import compose_rows, with_rows
from focalpo.stages.folder import Folder, Job, Stage
from focalpo.stages.records import (
    AlpacaVerdict,
    ArenaGame,
    Completion,
    Pair,
    PairState,
    Question,
    append_json,
    read_records,
    write_records,
)
from recipes import benchmark, check

ASKED = ["table=pocket", "settings=base", "rows=sft,dpo,focalpo", "seeds=2"]
STEPS = 12
RECORDED = 3
"""Answers of each benchmark about which a judge stage's records hold what it wrote."""


def planned(name: str = "pocket", **own: str) -> Stage:
    """The report stage of a cut-down table."""
    own = own or {"settings": "base", "rows": "sft,dpo,focalpo", "seeds": "2"}
    table = with_rows(compose_table(name), own)
    command = [f"table={name}", *(f"{key}={value}" for key, value in own.items())]
    return report_stage(table, table_rows(table, compose_rows(table, [])), command)


def sealed_stages(runs: Path, report: Stage) -> Folder:
    """Seal everything that the report needs, and return the report's own folder, still empty."""
    for stage in in_order([report])[:-1]:
        folder = Folder(runs, stage)
        with folder.being_made() as job:
            folder.seal(1.5, MAKERS.get(stage.kind, _something)(job))
    return Folder(runs, report)


def _something(job: Job) -> dict:
    (job.path / "made.txt").write_text(job.key)
    return {}


def _pairs(job: Job) -> dict:
    prompt = [{"role": "user", "content": f"say {job.name}"}]
    write_records(job.path / "train.parquet", [Pair(f"train-{n}", prompt, "yes", "no") for n in range(40)])
    return {"pairs": 40}


def _train(job: Job) -> dict:
    draw = random.Random(job.key)
    for step in range(1, STEPS + 1):
        row = {"loss": 0.7 - 0.01 * step, "reward_accuracy": 0.5, "logps_chosen": -8.0, "logps_rejected": -9.0 - step}
        append_json(job.path / "metrics.jsonl", {"step": step} | row)
    states = [
        PairState(step, split, f"{split}-{n}", draw.gauss(-8, 2), draw.gauss(-9, 2), 7, 8, n % 10 == 0)
        for step in (0, STEPS)
        for split in ("train", "test")
        for n in range(40)
    ]
    if "focalpo" not in job.name:  # whose rows are of before these were recorded
        more = {"chosen_entropy": 7.0, "rejected_entropy": 4.0, "ches": -60.0, "ches_per_token": -1.5}
        states = [replace(each, **more, reward_margin=place % 40 / 8 - 1) for place, each in enumerate(states)]
    write_records(job.path / "dynamics.parquet", states)
    return {"pairs": 40}


def _generate(job: Job) -> dict:
    facts = {}
    for name, values in job.settings["sets"].items():
        questions = read_records(job.inputs[values["questions"]] / "questions.parquet", Question)
        completions = [Completion(q.id, q.prompt, f"{job.name} says {q.id[:4]}", 6, True) for q in questions]
        write_records(job.path / f"{name}.parquet", completions)
        facts[name] = {"tokens": 6.0, "unfinished": 0.0}
    return facts


def _judge(job: Job) -> dict:
    draw = random.Random(job.key)
    alpaca = read_records(job.inputs["alpaca_eval"] / "questions.parquet", Question)
    verdicts = [
        AlpacaVerdict(q.id, n, 1 + draw.random() ** 2, len(q.reference), draw.randrange(5, 60))
        for n, q in enumerate(alpaca)
    ]
    write_records(job.path / "alpaca_eval.parquet", verdicts)
    arena = read_records(job.inputs["arena_hard"] / "questions.parquet", Question)
    games = [ArenaGame(q.id, game, "A>B", draw.choice([0.0, 0.5, 1.0]), 1) for q in arena for game in (1, 2)]
    write_records(job.path / "arena_hard.parquet", games)
    calls = {"calls": 800, "retried": 3, "failed": 0, "replayed": 0}
    _record(job, "alpaca_eval", alpaca)
    _record(job, "arena_hard", arena)
    protocols = {name: judged_by(protocol_of(values)) for name, values in job.settings["protocols"].items()}
    served = sorted({each["model"] for each in protocols.values()})
    return {"calls": calls, "gold": {"greedy_success": 50.0}, "served": served, "judged_by": protocols}


def _record(job: Job, name: str, questions: list[Question]) -> None:
    """Record what the judge wrote about the first answers: m where it saw the reference first, and about both games."""
    protocol = protocol_of(job.settings["protocols"][name])
    assert isinstance(protocol, JudgedProtocol)
    recording = Recording(job.path / "records.jsonl", read_only=False)
    answers = read_records(job.inputs["completions"] / f"{name}.parquet", Completion)
    for question, answer in list(zip(questions, answers, strict=True))[:RECORDED]:
        for first, messages in requests_of(question, answer, protocol):
            alpaca = isinstance(protocol, AlpacaProtocol)
            text = "m" if alpaca else f"Game {1 + first} was close. My final verdict is tight: [[A>B]]"
            body = body_of(protocol, messages)
            reply = {"choices": [{"message": {"role": "assistant", "content": text}}]}
            if not (alpaca and first):
                recording.add(request_id(body), body, GOOD, reply, 0.1)
    recording.close()


MAKERS = {
    "benchmark": benchmark.make_benchmark,
    "pairs": _pairs,
    "train": _train,
    "generate": _generate,
    "judge": _judge,
}
MAKERS["check"] = check.make
