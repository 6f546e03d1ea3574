"""Fetches a benchmark's files, from a given folder or from their publisher, and reads the questions in them.

protocol.files --copy or download, sha256 checked--> folder --> list[Question], in the benchmark's order
"""

import json
import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

import httpx2
from huggingface_hub import hf_hub_download

from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, ArenaTwoProtocol, Protocol
from focalpo.stages.folder import file_hash
from focalpo.stages.records import Question, read_json_lines

GITHUB = "github.com/"


def fetch(protocol: Protocol, given: Path | None, into: Path) -> None:
    """Put the benchmark's files into the folder `into`, each under its base name.

    Args:
        given: a folder of the user's that holds the files; if it is set, nothing touches the network.

    Raises:
        ValueError: if a file is missing, cannot be downloaded, or does not have the protocol's sha256.
    """
    for file in protocol.files.values():
        name = Path(file.path).name
        if given is not None:
            if not (given / name).is_file():
                raise ValueError(
                    f"{protocol.name}: {given} has no {name}; put it there, or unset judge.folder to download"
                )
            shutil.copyfile(given / name, into / name)
        else:
            _download(protocol, file.path, into / name)
        found = file_hash(into / name)
        if file.sha256 is not None and found != file.sha256:
            raise ValueError(
                f"{protocol.name}: {name} has sha256 {found}, expected {file.sha256}; get the file of revision "
                f"{protocol.revision} of {protocol.source}"
            )


def read_questions(protocol: Protocol, folder: Path) -> list[Question]:
    """Read the benchmark's questions with the baseline's answers.

    Raises:
        ValueError: if their number is not the protocol's, or the baseline has no answer to a question.
    """
    if isinstance(protocol, AlpacaProtocol):
        questions = _alpaca_questions(protocol, folder)
    else:
        questions = _arena_questions(protocol, folder)
    if len(questions) != protocol.prompts:
        raise ValueError(f"{protocol.name} has {len(questions)} questions in {folder}, expected {protocol.prompts}")
    return questions


def _download(protocol: Protocol, path: str, into: Path) -> None:
    try:
        if protocol.source.startswith(GITHUB):
            repository = protocol.source.removeprefix(GITHUB)
            url = f"{_raw_endpoint()}/{repository}/{protocol.revision}/{path}"
            with urllib.request.urlopen(url, timeout=60) as reply, into.open("wb") as file:
                shutil.copyfileobj(reply, file)
        else:
            cached = hf_hub_download(protocol.source, path, repo_type="dataset", revision=protocol.revision)
            shutil.copyfile(cached, into)
    except (OSError, HTTPException, httpx2.HTTPError) as error:  # the connection can also break in the middle of a file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{protocol.name}: cannot download {path} from {protocol.source} ({reason}); set judge.folder to a folder "
            "that holds it"
        ) from error


def _raw_endpoint() -> str:
    """Base URL of GitHub's raw files; GITHUB_RAW_ENDPOINT may name a mirror, as HF_ENDPOINT does for the Hub."""
    return os.environ.get("GITHUB_RAW_ENDPOINT", "https://raw.githubusercontent.com")


def _alpaca_questions(protocol: AlpacaProtocol, folder: Path) -> list[Question]:
    rows = json.loads((folder / Path(protocol.files["questions"].path).name).read_text())
    return [Question(str(index), _user_message(row["instruction"]), row["output"]) for index, row in enumerate(rows)]


def _arena_questions(protocol: ArenaProtocol, folder: Path) -> list[Question]:
    questions = read_json_lines(folder / Path(protocol.files["questions"].path).name)
    if isinstance(protocol, ArenaTwoProtocol):
        return _arena_two_questions(protocol, folder, questions)
    rows = read_json_lines(folder / Path(protocol.files["answers"].path).name)
    answers = {_uid(row): _arena_answer(row) for row in rows}
    missing = [_uid(row) for row in questions if _uid(row) not in answers]
    if missing:
        raise ValueError(
            f"{protocol.name}: {protocol.baseline} has no answer to {missing[0]} and {len(missing) - 1} more; get the "
            f"file of revision {protocol.revision}"
        )
    return [
        Question(_uid(row), _user_message(row.get("prompt") or row["turns"][0]["content"]), answers[_uid(row)])
        for row in questions
    ]


def _arena_two_questions(protocol: ArenaTwoProtocol, folder: Path, rows: list[dict]) -> list[Question]:
    """Each question with the answer of its category's baseline."""
    present = {row["category"] for row in rows}
    if present != protocol.categories.keys():
        raise ValueError(f"{protocol.name} has categories {sorted(present)}, expected {sorted(protocol.categories)}")
    by_id = {}
    for name, category in protocol.categories.items():
        answers = read_json_lines(folder / Path(protocol.files[category.answers].path).name)
        by_id |= {(name, _uid(row)): _arena_answer(row) for row in answers}
    missing = [_uid(row) for row in rows if (row["category"], _uid(row)) not in by_id]
    if missing:
        raise ValueError(
            f"{protocol.name}: the baseline has no answer to {missing[0]} and {len(missing) - 1} more; get the file of "
            f"revision {protocol.revision}"
        )
    return [
        Question(f"{row['category']}/{_uid(row)}", _user_message(row["prompt"]), by_id[row["category"], _uid(row)])
        for row in rows
    ]


def _uid(row: dict) -> str:
    return row.get("uid") or row["question_id"]


def _arena_answer(row: dict) -> str:
    """The answer, from any layout of the model_answer files: plain, messages (2025) or choices (2024)."""
    if "answer" in row:
        return row["answer"]
    if "messages" in row:
        content = row["messages"][-1]["content"]
        return content["answer"] if isinstance(content, dict) else content
    return row["choices"][0]["turns"][0]["content"]


def _user_message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
