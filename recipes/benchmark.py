"""Prepare a benchmark's questions and reference answers in the format that generation and judging read."""

from pathlib import Path

from focalpo.checking.instructions import check_kinds
from focalpo.checking.layouts import read_instructed
from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, CheckedProtocol
from focalpo.judging.requests import protocol_of
from focalpo.judging.upstream import write_prompt
from focalpo.pocket.benchmarks import write_benchmark
from focalpo.stages.folder import Job
from focalpo.stages.records import Question, write_records


def make(job: Job) -> dict:
    """Fill the job's folder with `questions.parquet` and the files that scoring needs."""
    protocol = protocol_of(job.settings)
    if isinstance(protocol, CheckedProtocol):
        return _checked(protocol, job)
    if protocol.source == "pocket":
        kind = "alpaca_eval" if isinstance(protocol, AlpacaProtocol) else "arena_hard"
        write_benchmark(kind, job.path, rows=protocol.prompts)
    else:
        given = job.launch["folder"]
        fetch(protocol, Path(given) if given else None, job.path)
        if isinstance(protocol, ArenaProtocol):
            write_prompt(protocol, job.path)
    questions = read_questions(protocol, job.path)
    write_records(job.path / "questions.parquet", questions)
    return {"questions": len(questions)}


def _checked(protocol: CheckedProtocol, job: Job) -> dict:
    """A benchmark that is checked by code has instructions instead of reference answers: `instructions.parquet`."""
    given = job.launch["folder"]
    fetch(protocol, Path(given) if given else None, job.path)
    file = job.path / Path(protocol.files["prompts"].path).name
    instructed = read_instructed(protocol.name, protocol.layout, file, protocol.prompts, protocol.kinds)
    check_kinds(instructed)
    write_records(job.path / "instructions.parquet", instructed)
    questions = [Question(each.id, [{"role": "user", "content": each.prompt}], "") for each in instructed]
    write_records(job.path / "questions.parquet", questions)
    counts = {"questions": len(questions), "instructions": sum(len(each.kinds) for each in instructed)}
    return counts | {"source": protocol.source}
