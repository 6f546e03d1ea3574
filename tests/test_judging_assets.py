"""The published files that scoring needs: all are pinned, and all can come from a folder without network access."""

import gzip
import hashlib
import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.judging.protocol import ArenaProtocol, BenchmarkFile, Protocol, load_protocol
from focalpo.judging.upstream import TEMPLATE_NAMES, with_prompt, write_prompt
from focalpo.scoring.length_control import read_gamed

EVAL = Path(__file__).parent.parent / "eval"
NAMES = ("alpaca_eval_2", "alpaca_eval_2_local", "arena_hard_v0_1", "arena_hard_v0_1_local")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*address: object) -> NoReturn:
        raise AssertionError(f"unexpected network access: {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_the_network_is_really_blocked() -> None:
    with pytest.raises(AssertionError, match="unexpected network access"):
        socket.create_connection(("127.0.0.1", 9))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_a_published_benchmark_is_pinned_by_revision_and_content(name: str) -> None:
    protocol = load_protocol(EVAL / f"{name}.yaml")
    needed = (
        {"questions", "gamed", "difficulty"}
        if name.startswith("alpaca")
        else {"questions", "answers", "settings", "prompt"}
    )
    assert set(protocol.files) == needed
    assert re.fullmatch("[0-9a-f]{40}", str(protocol.revision))
    assert all(re.fullmatch("[0-9a-f]{64}", str(file.sha256)) for file in protocol.files.values())


def written(protocol: Protocol, folder: Path, texts: dict[str, str]) -> Protocol:
    """The protocol with test files, which are written to the folder and pinned."""
    files = {}
    for role, text in texts.items():
        path = protocol.files[role].path
        (folder / Path(path).name).write_text(text)
        files[role] = BenchmarkFile(path, hashlib.sha256(text.encode()).hexdigest())
    return replace(protocol, files=files, prompts=2)


ALPACA = {
    "questions": json.dumps([{"instruction": f"do {n}", "output": f"done {n}"} for n in range(2)]),
    "gamed": "index,std_delta_len,instruction_difficulty,preference\n0,0.5,0.0,0.4\n1,-0.5,1.5,0.6\n",
    "difficulty": "index,instruction_difficulty\n0,0.0\n1,1.5\n",
}
ARENA = {
    "questions": "".join(json.dumps({"uid": str(n), "prompt": f"do {n}"}) + "\n" for n in range(2)),
    "answers": "".join(json.dumps({"uid": str(n), "answer": f"done {n}"}) + "\n" for n in range(2)),
}

SETTINGS = """\
temperature: 0.0
max_tokens: 4096
regex_patterns:
  - \\[\\[([AB<>=]+)\\]\\]
prompt_template: {template}
"""


def published_settings(protocol: Protocol) -> str:
    """The authors' settings file, with their names and the protocol's values."""
    assert isinstance(protocol, ArenaProtocol)
    template = protocol.user_template
    for theirs, ours in TEMPLATE_NAMES.items():
        template = template.replace(ours, theirs)
    return SETTINGS.format(template=json.dumps(template))


def test_the_official_prompt_is_read_from_the_authors_file_and_their_settings_must_match(tmp_path: Path) -> None:
    protocol = load_protocol(EVAL / "arena_hard_v0_1.yaml")
    assert isinstance(protocol, ArenaProtocol)
    settings = published_settings(protocol)
    (tmp_path / "arena-hard-v0.1.yaml").write_text(settings)
    (tmp_path / "judge_utils.py").write_text('OG_ARENA_HARD_PROMPT = "Be\\nfair."\nOTHER = open("nothing is run")\n')
    assert with_prompt(protocol, tmp_path) == protocol
    write_prompt(protocol, tmp_path)
    assert with_prompt(protocol, tmp_path).prompt_file.read_text() == "Be\nfair."
    for ours, other in (("0.0", "0.7"), ("4096", "16"), ("=", ""), ("Prompt|", "Text|")):
        (tmp_path / "arena-hard-v0.1.yaml").write_text(settings.replace(ours, other))
        with pytest.raises(ValueError, match="Arena-Hard v0.1: .*, the authors' .* has .*; fix the protocol"):
            write_prompt(protocol, tmp_path)
    (tmp_path / "arena-hard-v0.1.yaml").write_text(settings)
    (tmp_path / "judge_utils.py").write_text("OG_ARENA_HARD_PROMPT = 3\n")
    with pytest.raises(ValueError, match="does not define OG_ARENA_HARD_PROMPT as text; get the file of the revision"):
        write_prompt(protocol, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_all_files_and_each_is_checked(name: str, tmp_path: Path) -> None:
    given, into = tmp_path / "given", tmp_path / "into"
    given.mkdir()
    into.mkdir()
    texts = ALPACA if name.startswith("alpaca") else ARENA
    protocol = written(load_protocol(EVAL / f"{name}.yaml"), given, texts)
    fetch(protocol, given, into)
    assert [question.reference for question in read_questions(protocol, into)] == ["done 0", "done 1"]
    if name.startswith("alpaca"):
        assert list(read_gamed(into / "df_gamed.csv").prompt_difficulty) == [0.0, 1.5]
    for file in protocol.files.values():
        place = given / Path(file.path).name
        whole = place.read_bytes()
        place.write_bytes(whole + b" ")
        with pytest.raises(ValueError, match=f"{place.name} has sha256 .* get the file of revision"):
            fetch(protocol, given, into)
        place.unlink()
        with pytest.raises(ValueError, match=f"has no {place.name}; put it there, or unset judge.folder"):
            fetch(protocol, given, into)
        place.write_bytes(whole)


def test_the_published_questions_are_the_pinned_ones(shared_data: Path, tmp_path: Path) -> None:
    """The real instructions and reference answers of both benchmarks, if they are beside the checkout."""
    alpaca = load_protocol(EVAL / "alpaca_eval_2.yaml")
    text = gzip.decompress((shared_data / "alpaca_eval_gpt4_baseline.json.gz").read_bytes())
    (tmp_path / "alpaca_eval_gpt4_baseline.json").write_bytes(text)
    into = tmp_path / "into"
    into.mkdir()
    fetch(replace(alpaca, files={"questions": alpaca.files["questions"]}), tmp_path, into)
    assert len(read_questions(alpaca, into)) == 805
    arena = load_protocol(EVAL / "arena_hard_v0_1.yaml").files["questions"]
    questions = (shared_data / "arena_hard_v0.1_question.jsonl").read_bytes()
    assert hashlib.sha256(questions).hexdigest() == arena.sha256
