"""Replies that earlier judge stages paid for: those of the same judge about the same answers.

A stage whose code or protocol has changed has another key and folder, but may send some requests as they were, byte for
byte. What a record answers is not asked again, but for the sentinel's pairs: only a new reply shows whether the judge
has changed.
"""

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from focalpo.stages.folder import MANIFEST, Damaged, Job, file_hash, read_manifest

RECORDS = "records.jsonl"
OPPONENT = "opponent"
"""The input of a duel that has the other row's completions."""


def take_records(job: Job, place: Path | None = None, anew: Collection[str] = ()) -> list[str]:
    """Fill a folder, the job's own, with the earlier records unless it has some; returns the stages they are from.

    A line that several records have, because one took it from the other, is taken once: it was paid for once. `anew`:
    openings of what is asked again.
    """
    place = place or job.path
    found = [] if (place / RECORDS).exists() else earlier_records(job)
    if found:
        lines = dict.fromkeys(line for path in found for line in path.read_bytes().splitlines(keepends=True))
        draft = place / f".{RECORDS}"
        whole = (line for line in lines if line.endswith(b"\n"))  # the last may be torn by a kill
        draft.write_bytes(b"".join(line for line in whole if not _is_of(line, anew)))
        draft.replace(place / RECORDS)
    return [f"{job.kind}/{path.parent.name}" for path in found]


def opening(request: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """A request's messages up to the first that shows an answer, as JSON; a game's second turn has the same."""
    messages = request.get("messages", ())
    turns = [place for place, message in enumerate(messages) if message["role"] == "user"]
    return json.dumps(messages[: turns[0] + 1] if turns else messages, sort_keys=True)


def _is_of(line: bytes, openings: Collection[str]) -> bool:
    with contextlib.suppress(ValueError, KeyError, TypeError):  # what is no attempt is refused where attempts are read
        return opening(json.loads(line)["request"]) in openings
    return False


def earlier_records(job: Job) -> list[Path]:
    """The records beside a judge stage's folder of the same judge and the same answers, oldest first."""
    answers = _answers(job)
    folders = [path.parent for path in job.path.parent.glob(f"[!.]*/{RECORDS}") if path.parent != job.path]
    same = [folder for folder in folders if answers and _intact(folder) and _asked(folder) == (_judge(job), answers)]
    return sorted((folder / RECORDS for folder in same), key=lambda path: path.stat().st_mtime)


def _asked(folder: Path) -> tuple[str | None, set[tuple[str, str]]] | None:
    """The judge and the answers of a stage folder; None if the folder does not describe a stage."""
    with contextlib.suppress(ValueError):
        job = Job.read(folder)
        return _judge(job), _answers(job)
    return None


def _judge(job: Job) -> str | None:
    return job.settings.get("judge")


def _answers(job: Job) -> set[tuple[str, str]]:
    """The name and sha256 of each file of answers, of a duel those of both rows; none when they are not sealed."""
    with contextlib.suppress(Damaged):
        folders = [path for name, path in job.inputs.items() if name in ("completions", OPPONENT)]
        outputs = [each for folder in folders for each in read_manifest(folder)["outputs"].items()]
        return {(name, digest) for name, digest in outputs if name.endswith(".parquet")}
    return set()


def _intact(folder: Path) -> bool:
    """Whether the records are those that were sealed; what is not sealed yet is as good as what a resumed stage has."""
    if not (folder / MANIFEST).exists():
        return True
    with contextlib.suppress(Damaged):
        return read_manifest(folder)["outputs"].get(RECORDS) == file_hash(folder / RECORDS)
    return False
