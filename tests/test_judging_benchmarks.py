"""Benchmark files from a folder or a stand-in for the Hub, their layouts, and the errors for wrong files."""

import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from focalpo.judging import benchmarks
from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, BenchmarkFile, load_protocol
from focalpo.stages.records import Question

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


def test_a_wrong_number_of_questions_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(TEXT)
    with pytest.raises(ValueError, match="has 3 questions in .*, expected 805"):
        read_questions(replace(alpaca(), prompts=805), tmp_path)


def test_a_hub_file_is_downloaded_at_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_github_file_is_downloaded_at_the_pinned_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def download(url: str, timeout: float) -> io.BytesIO:
        seen.append(url)
        return io.BytesIO(TEXT)

    monkeypatch.setattr(benchmarks.urllib.request, "urlopen", download)
    fetch(alpaca(source="github.com/owner/name", revision="abc"), None, tmp_path)
    assert seen == ["https://raw.githubusercontent.com/owner/name/abc/data/rows.json"]


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("no route to host"), "no route to host"),
        (TimeoutError("the read timed out"), "the read timed out"),
        (TimeoutError(), "TimeoutError"),
        (http.client.IncompleteRead(b"half"), "IncompleteRead"),
        (http.client.RemoteDisconnected("closed\nby them"), "closed"),
    ],
)
def test_a_failed_download_gives_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(benchmarks.urllib.request, "urlopen", failing(error))
    with pytest.raises(ValueError, match=rf"from github.com/o/n \(.*{reason}.*\); set judge.folder") as error_info:
        fetch(alpaca(source="github.com/o/n"), None, tmp_path)
    assert "\n" not in str(error_info.value)


def test_a_broken_hub_connection_gives_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "hf_hub_download", failing(httpx2.RemoteProtocolError("peer closed connection")))
    with pytest.raises(ValueError, match=r"tatsu-lab/alpaca_eval \(peer closed connection\); set judge.folder"):
        fetch(alpaca(), None, tmp_path)


FRESH_PROCESS = """
import sys
from pathlib import Path
from tests.test_judging_benchmarks import alpaca, fetch, replace, BenchmarkFile

folder = Path(sys.argv[1])
fetch(alpaca(), None, folder)
try:
    fetch(replace(alpaca(), files={"questions": BenchmarkFile("gone.json", None)}), None, folder)
except ValueError as error:
    (folder / "error").write_text(str(error))
"""


def test_the_real_hub_client_downloads_from_a_hub_on_loopback_and_names_a_missing_file(tmp_path: Path) -> None:
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path.endswith("/data/rows.json")
            self.send_response(200 if found else 404)
            for name, value in {"etag": '"1"', "x-repo-commit": "2edc6fad8be6b14ea7230aabfd08188da6b8b814"}.items():
                self.send_header(name, value)
            if not found:
                self.send_header("x-error-code", "EntryNotFound")
            self.send_header("content-length", str(len(TEXT) if found else 0))
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(TEXT)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
    try:
        command = [sys.executable, "-c", FRESH_PROCESS, str(tmp_path)]
        subprocess.run(command, cwd=EVAL.parent, env=os.environ | environment, check=True, timeout=120)
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
    assert (tmp_path / "rows.json").read_bytes() == TEXT
    place = "/datasets/tatsu-lab/alpaca_eval/resolve/2edc6fad8be6b14ea7230aabfd08188da6b8b814/data/rows.json"
    assert place in asked
    error = (tmp_path / "error").read_text()
    assert "cannot download gone.json from tatsu-lab/alpaca_eval (404" in error and "\n" not in error


def test_a_file_without_a_sha256_is_not_checked(tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (tmp_path / "rows.json").write_bytes(TEXT + b" ")
    fetch(alpaca(sha256=None), tmp_path, into)
    assert (into / "rows.json").read_bytes() == TEXT + b" "


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


@pytest.mark.parametrize(
    "rows, said",
    [
        ({"instruction": "a"}, "is not a list of questions"),
        ([ROWS[0], {"instruction": "a"}], "row 2 has another layout \\(no 'output'\\)"),
        ([ROWS[0], ["a", "b"]], "row 2 has another layout"),
        ([ROWS[0], {"instruction": 7, "output": "b"}], "row 2 has another layout \\(int where a text is expected\\)"),
        ("", "is empty"),
        ("[{", "line 1 is not JSON"),
    ],
)
def test_a_benchmark_file_of_another_layout_is_named_by_its_row(tmp_path: Path, rows: object, said: str) -> None:
    (tmp_path / "rows.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(ValueError, match=f"rows.json {said}"):
        read_questions(alpaca(), tmp_path)


@pytest.mark.parametrize(
    "question, answer, said",
    [
        ({"uid": "u"}, {"uid": "u", "answer": "so"}, "question.jsonl row 1 has another layout \\(no 'turns'\\)"),
        ({"uid": "u", "prompt": "why?"}, {"uid": "u"}, "answers.jsonl row 1 has another layout \\(no 'choices'\\)"),
        ({"uid": "u", "prompt": "why?"}, {"uid": "u", "messages": []}, "answers.jsonl row 1 has another layout"),
        ({"uid": 5, "prompt": "why?"}, {"uid": "u", "answer": "so"}, "question.jsonl row 1 has another layout"),
    ],
)
def test_an_arena_file_of_another_layout_is_named_by_its_row(tmp_path: Path, question, answer, said: str) -> None:
    with pytest.raises(ValueError, match=f"{said}.*get the file of the revision"):
        read_questions(arena(tmp_path, [question], [answer]), tmp_path)
