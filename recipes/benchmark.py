"""Prepare a benchmark's questions and reference answers, or a model's answers from files, in the format for judging."""

from pathlib import Path

from focalpo.checking.instructions import check_kinds
from focalpo.checking.layouts import read_instructed
from focalpo.judging.answer_files import read_answers
from focalpo.judging.benchmarks import fetch, read_questions
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, CheckedProtocol
from focalpo.judging.requests import protocol_of
from focalpo.judging.upstream import write_prompt
from focalpo.pocket.benchmarks import write_benchmark
from focalpo.scoring.sanity import health, health_warnings
from focalpo.stages.folder import Job, file_hash
from focalpo.stages.records import Question, read_records, write_records


def make_benchmark(job: Job) -> dict:
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


def make_answers(job: Job) -> dict:
    """Fill the job's folder with `<benchmark>.parquet`, the answers of a file each, as `generate` would write them."""
    facts, models, warnings = {}, {}, []
    for name, values in job.settings["sets"].items():
        file = Path(job.launch["files"][name])
        if not file.is_file() or file_hash(file) != values["sha256"]:
            raise ValueError(f"{file} has changed since the command read it; run the command again")
        protocol = protocol_of(Job.read(job.inputs[name]).settings)
        assert not isinstance(protocol, CheckedProtocol), "files answer what is judged"
        questions = read_records(job.inputs[name] / "questions.parquet", Question)
        answers = read_answers(file, protocol, questions)
        write_records(job.path / f"{name}.parquet", answers.completions)
        found = health(answers.completions, {question.id: question.reference for question in questions})
        warnings += health_warnings(name, found)
        unknown = ["unfinished"] + ["tokens"] * any(each.text and not each.tokens for each in answers.completions)
        facts[name] = {fact: value for fact, value in found.items() if fact not in unknown}
        models[name] = answers.model
    return facts | {"models": models, "warnings": warnings}


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
