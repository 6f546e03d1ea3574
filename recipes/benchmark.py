"""A benchmark's questions and reference answers, in the shape that generation and judging read."""

from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.pocket.benchmarks import write_benchmark

from focalpo.artifact import Job
from focalpo.records import write_records
from recipes.opening import protocol_of


def make(job: Job) -> dict:
    """Fill the job's folder with `questions.parquet` and the files that scoring needs."""
    protocol = protocol_of(job.settings)
    if protocol.source == "pocket":
        write_benchmark(protocol.kind, job.path)
    else:
        fetch(protocol, job.launch["folder"], job.path)
    questions = read_questions(protocol, job.path)
    write_records(job.path / "questions.parquet", questions)
    return {"questions": len(questions)}
