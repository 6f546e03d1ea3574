"""Fetches a benchmark's files, from a given folder or from their publisher, and reads the questions in them.

protocol.files --copy or download, sha256 checked--> folder --> list[Question], in the benchmark's order
"""

import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

import httpx2
from huggingface_hub import hf_hub_download

from focalpo.judging.answer_files import arena_answer, each_row, text_of, uid_of
from focalpo.judging.protocol import (
    EVAL,
    AlpacaProtocol,
    ArenaProtocol,
    ArenaTwoProtocol,
    CheckedProtocol,
    JudgedProtocol,
    Protocol,
)
from focalpo.stages.folder import file_hash
from focalpo.stages.reading import read_json, read_json_rows
from focalpo.stages.records import Question

GITHUB = "github.com/"
OWN = "own"
"""The source of files that lie in eval/, beside the protocol."""
REMEDY = "get the file of the revision that the benchmark names"


def fetch(protocol: Protocol, given: Path | None, into: Path) -> None:
    """Put the benchmark's files into the folder `into`, each under its base name; our own are copied from eval/.

    Args:
        given: a folder of the user's that holds the files; if it is set, nothing touches the network.

    Raises:
        ValueError: if a file is missing, cannot be downloaded, or does not have the protocol's sha256.
    """
    given = EVAL if protocol.source == OWN else given
    for file in protocol.files.values():
        name = Path(file.path).name
        if given is not None:
            if not (given / name).is_file():
                raise ValueError(
                    f"{protocol.name}: {given} has no {name}; put it there, or unset {_key(protocol)} to download"
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


def read_questions(protocol: JudgedProtocol, folder: Path) -> list[Question]:
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
            f"{protocol.name}: cannot download {path} from {protocol.source} ({reason}); set {_key(protocol)} to a "
            "folder that holds it"
        ) from error


def _key(protocol: Protocol) -> str:
    """The key of the configuration that names a folder with the benchmark's files."""
    return "check.folder" if isinstance(protocol, CheckedProtocol) else "judge.folder"


def _raw_endpoint() -> str:
    """Base URL of GitHub's raw files; GITHUB_RAW_ENDPOINT may name a mirror, as HF_ENDPOINT does for the Hub."""
    return os.environ.get("GITHUB_RAW_ENDPOINT", "https://raw.githubusercontent.com")


def _alpaca_questions(protocol: AlpacaProtocol, folder: Path) -> list[Question]:
    file = folder / Path(protocol.files["questions"].path).name
    rows = read_json(file, REMEDY)
    if not isinstance(rows, list):
        raise ValueError(f"{file} is not a list of questions; {REMEDY}")
    texts = each_row(file, rows, lambda row: (text_of(row["instruction"]), text_of(row["output"])), REMEDY)
    return [Question(str(index), _user_message(asked), answer) for index, (asked, answer) in enumerate(texts)]


def _arena_questions(protocol: ArenaProtocol, folder: Path) -> list[Question]:
    file = folder / Path(protocol.files["questions"].path).name
    questions = read_json_rows(file)
    if isinstance(protocol, ArenaTwoProtocol):
        return _arena_two_questions(protocol, folder, file, questions)
    answers = _arena_answers(folder / Path(protocol.files["answers"].path).name)
    asked = each_row(file, questions, _arena_asked, REMEDY)
    missing = [uid for uid, _ in asked if uid not in answers]
    if missing:
        raise ValueError(
            f"{protocol.name}: {protocol.baseline} has no answer to {missing[0]} and {len(missing) - 1} more; get the "
            f"file of revision {protocol.revision}"
        )
    return [Question(uid, _user_message(text), answers[uid]) for uid, text in asked]


def _arena_asked(row: dict) -> tuple[str, str]:
    return uid_of(row), text_of(row.get("prompt") or row["turns"][0]["content"])


def _arena_answers(file: Path) -> dict[str, str]:
    return dict(each_row(file, read_json_rows(file), lambda row: (uid_of(row), arena_answer(row)), REMEDY))


def _arena_two_questions(protocol: ArenaTwoProtocol, folder: Path, file: Path, rows: list[dict]) -> list[Question]:
    """Each question with the answer of its category's baseline."""
    asked = each_row(file, rows, lambda row: (text_of(row["category"]), uid_of(row), text_of(row["prompt"])), REMEDY)
    present = {category for category, _, _ in asked}
    if present != protocol.categories.keys():
        raise ValueError(f"{protocol.name} has categories {sorted(present)}, expected {sorted(protocol.categories)}")
    by_id = {}
    for name, category in protocol.categories.items():
        answers = _arena_answers(folder / Path(protocol.files[category.answers].path).name)
        by_id |= {(name, uid): answer for uid, answer in answers.items()}
    missing = [uid for category, uid, _ in asked if (category, uid) not in by_id]
    if missing:
        raise ValueError(
            f"{protocol.name}: the baseline has no answer to {missing[0]} and {len(missing) - 1} more; get the file of "
            f"revision {protocol.revision}"
        )
    return [Question(f"{category}/{uid}", _user_message(text), by_id[category, uid]) for category, uid, text in asked]


def _user_message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
