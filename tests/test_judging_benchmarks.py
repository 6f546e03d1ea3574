"""Benchmark files from a folder or a stand-in of the hub, their layouts, and what is said when they are not right."""

import hashlib
import io
import json
import urllib.error
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging import benchmarks
from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, BenchmarkFile, load_protocol
from focalpo.records import Question

EVAL = Path(__file__).parent.parent / "eval"
ROWS = [{"instruction": f"do {n}", "output": f"done {n}", "generator": "reference", "dataset": "own"} for n in range(3)]
TEXT = json.dumps(ROWS).encode()


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def alpaca(sha256: str | None = hashlib.sha256(TEXT).hexdigest(), **changes: object) -> AlpacaProtocol:
    protocol = load_protocol(EVAL / "alpaca_eval_2.yaml")
    assert isinstance(protocol, AlpacaProtocol)
    return replace(protocol, files={"questions": BenchmarkFile("data/rows.json", sha256)}, prompts=3, **changes)


def arena(folder: Path, questions: list[dict], answers: list[dict]) -> ArenaProtocol:
    for name, rows in (("question.jsonl", questions), ("answers.jsonl", answers)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"questions": BenchmarkFile("q/question.jsonl", None), "answers": BenchmarkFile("a/answers.jsonl", None)}
    protocol = load_protocol(EVAL / "arena_hard_v0_1.yaml")
    assert isinstance(protocol, ArenaProtocol)
    return replace(protocol, files=files, prompts=len(questions))


def test_files_of_a_given_folder_are_checked_and_copied(tmp_path: Path) -> None:
    given, into = tmp_path / "given", tmp_path / "into"
    given.mkdir()
    into.mkdir()
    (given / "rows.json").write_bytes(TEXT)
    fetch(alpaca(), given, into)
    assert read_questions(alpaca(), into) == [Question(str(n), asked(f"do {n}"), f"done {n}") for n in range(3)]


def test_a_wrong_or_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(TEXT + b" ")
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(ValueError, match=r"rows.json has sha256 \w{64}, expected \w{64}; get the file of revision"):
        fetch(alpaca(), tmp_path, into)
    with pytest.raises(ValueError, match="has no rows.json; put it there, or unset judge.folder to download"):
        fetch(alpaca(), into / "nowhere", into)


def test_another_number_of_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(TEXT)
    with pytest.raises(ValueError, match="has 3 questions in .*, expected 805"):
        read_questions(replace(alpaca(), prompts=805), tmp_path)


def test_a_hub_file_is_asked_for_at_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, path: str, repo_type: str, revision: str) -> str:
        assert (repository, path, repo_type) == ("tatsu-lab/alpaca_eval", "data/rows.json", "dataset")
        assert revision == "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
        (tmp_path / "cached").write_bytes(TEXT)
        return str(tmp_path / "cached")

    monkeypatch.setattr(benchmarks, "hf_hub_download", download)
    into = tmp_path / "into"
    into.mkdir()
    fetch(alpaca(), None, into)
    assert (into / "rows.json").read_bytes() == TEXT


def test_a_github_file_is_asked_for_at_the_pinned_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def download(url: str, timeout: float) -> io.BytesIO:
        seen.append(url)
        return io.BytesIO(TEXT)

    monkeypatch.setattr(benchmarks.urllib.request, "urlopen", download)
    fetch(alpaca(source="github.com/owner/name", revision="abc"), None, tmp_path)
    assert seen == ["https://raw.githubusercontent.com/owner/name/abc/data/rows.json"]


def test_no_network_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(benchmarks.urllib.request, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"cannot download data/rows.json from github.com/o/n .*; set judge.folder"):
        fetch(alpaca(source="github.com/o/n"), None, tmp_path)


@pytest.mark.parametrize(
    "question, answer",
    [
        ({"uid": "u", "prompt": "why?"}, {"uid": "u", "answer": "so"}),
        (
            {"uid": "u", "prompt": "why?"},
            {"uid": "u", "messages": [{"content": "why?"}, {"content": {"answer": "so"}}]},
        ),
        ({"uid": "u", "prompt": "why?"}, {"uid": "u", "messages": [{"content": "why?"}, {"content": "so"}]}),
        (
            {"question_id": "u", "turns": [{"content": "why?"}]},
            {"question_id": "u", "choices": [{"turns": [{"content": "so"}]}]},
        ),
    ],
)
def test_every_published_layout_of_arena_hard_is_read(tmp_path: Path, question: dict, answer: dict) -> None:
    protocol = arena(tmp_path, [question], [answer])
    assert read_questions(protocol, tmp_path) == [Question("u", asked("why?"), "so")]


def test_a_question_without_the_baselines_answer_is_named(tmp_path: Path) -> None:
    questions = [{"uid": name, "prompt": "why?"} for name in ("a", "b")]
    protocol = arena(tmp_path, questions, [{"uid": "a", "answer": "so"}])
    with pytest.raises(ValueError, match="gpt-4-0314 has no answer to b and 0 more"):
        read_questions(protocol, tmp_path)
