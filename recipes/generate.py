"""Completions of one model for every set of the configuration."""

from focalpo.artifact import Job
from focalpo.config import plain
from focalpo.generation import Backend, Decoding, Generator, check_template
from focalpo.judging.sanity import health, health_warnings
from focalpo.records import Question, read_records, write_records
from recipes.command import run_single
from recipes.opening import source_of


def make(job: Job) -> dict:
    """Fill the job's folder with `<set>.parquet`."""
    settings, launch = job.settings, job.launch
    backend = Backend(settings["backend"], settings["dtype"], **launch)
    generator = Generator(source_of(job), backend)
    if "model" in job.inputs:
        check_template(job.inputs["model"] / "model", generator.tokenizer)
    facts, warnings = {}, []
    for name, values in settings["sets"].items():
        decoding = {key: value for key, value in plain(values).items() if key != "questions"}
        questions = read_records(job.inputs[values["questions"]] / "questions.parquet", Question)
        completions = generator.answer(
            [question.id for question in questions],
            [question.prompt for question in questions],
            Decoding(**decoding),
            settings["seed"],
        )
        write_records(job.path / f"{name}.parquet", completions)
        facts[name] = health(completions, {question.id: question.reference for question in questions})
        warnings += health_warnings(name, facts[name])
    return facts | {"warnings": warnings}


if __name__ == "__main__":
    run_single("generate")
