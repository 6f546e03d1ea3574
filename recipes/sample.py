"""Sample one answer of the policy to every prompt, with one seed."""

from focalpo.answering.generation import Decoding, Generator, backend_of
from focalpo.stages.folder import Job
from focalpo.stages.records import Prompt, read_records, write_records
from focalpo.training.jobs import source_of


def make(job: Job) -> dict:
    """Fill the job's folder with `samples.parquet`, in the order of the prompts."""
    settings = job.settings
    prompts = read_records(job.inputs["prompts"] / "prompts.parquet", Prompt)
    with Generator(source_of(job), backend_of(job)) as generator:
        answers = generator.answer(
            [prompt.id for prompt in prompts],
            [prompt.prompt for prompt in prompts],
            Decoding(**settings["decoding"]),
            settings["seed"],
        )
    write_records(job.path / "samples.parquet", answers)
    return {"samples": len(answers), "unfinished": sum(not answer.finished for answer in answers) / len(answers)}
