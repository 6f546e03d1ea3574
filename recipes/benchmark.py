"""Prepare a benchmark's questions and reference answers in the format that generation and judging read."""

from pathlib import Path

from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, protocol_of
from focalpo.judging.upstream import write_prompt
from focalpo.pocket.benchmarks import write_benchmark
from focalpo.stages.folder import Job
from focalpo.stages.records import write_records


def make(job: Job) -> dict:
    """Fill the job's folder with `questions.parquet` and the files that scoring needs."""
    protocol = protocol_of(job.settings)
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
