"""Replies that were paid for are taken from records of the same judge about the same answers, and from no others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.earlier import take_records
from focalpo.stages.folder import Folder, Job, Stage


def answered(runs: Path, text: str, seed: int = 1) -> Stage:
    stage = Stage("generate", "row", {"seed": seed})
    folder = Folder(runs, stage)
    with folder.being_made() as job:
        (job.path / "alpaca_eval.parquet").write_text(text)
        folder.seal(0.0)
    return stage


def judged(runs: Path, stage: Stage, *lines: str, sealed: bool = True) -> Folder:
    folder = Folder(runs, stage)
    with folder.being_made() as job:
        (job.path / "records.jsonl").write_text("".join(lines))
        if sealed:
            folder.seal(0.0)
    return folder


def waiting(runs: Path, stage: Stage) -> Job:
    with (folder := Folder(runs, stage)).being_made():
        return folder.job


def line(name: str, reply: int = 0) -> str:
    return json.dumps({"id": name, "outcome": "good", "request": {}, "reply": {"n": reply}}) + "\n"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage("judge", "row", {"judge": "gpt", "code": "new"}, {"completions": answered(tmp_path, "the answers")})


def test_what_earlier_stages_paid_for_is_taken_once_and_whole_lines_only(tmp_path: Path, stage: Stage) -> None:
    old, older = ({"judge": "gpt", "code": code} for code in ("old", "older"))
    judged(tmp_path, replace(stage, settings=older), line("a"), line("b"))
    regenerated = {"completions": answered(tmp_path, "the answers", seed=2)}  # another stage, and the same bytes
    stopped = replace(stage, settings=old, inputs=regenerated)
    judged(tmp_path, stopped, line("a"), line("b"), line("c"), line("torn")[:-5], sealed=False)
    job = waiting(tmp_path, stage)
    taken = take_records(job)
    assert len(taken) == 2 and all(name.startswith("judge/row-") for name in taken)
    assert (job.path / "records.jsonl").read_text() == line("a") + line("b") + line("c")
    (job.path / "records.jsonl").write_text(line("own"))
    assert take_records(job) == [] and (job.path / "records.jsonl").read_text() == line("own"), "it is resumed"


@pytest.mark.parametrize("what", ["judge", "answers", "edited", "unknown judge"])
def test_other_records_are_left_alone(tmp_path: Path, stage: Stage, what: str) -> None:
    other = replace(stage, settings={"judge": "gpt", "code": "old"})
    if what == "judge":
        other = replace(other, settings={"judge": "llama", "code": "old"})
    if what == "unknown judge":
        other = replace(other, settings={"code": "old"})
    if what == "answers":
        other = replace(other, inputs={"completions": answered(tmp_path, "other answers", seed=2)})
    folder = judged(tmp_path, other, line("a"))
    if what == "edited":
        (folder.path / "records.jsonl").write_text(line("a", reply=1))
    job = waiting(tmp_path, stage)
    assert take_records(job) == [] and not (job.path / "records.jsonl").exists()
