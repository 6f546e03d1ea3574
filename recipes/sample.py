"""Sample answers of the policy to every prompt, one per seed."""

from focalpo.answering.engine import Decoding, backend_of
from focalpo.answering.generation import Generator
from focalpo.answering.parts import Parts
from focalpo.stages.folder import Job
from focalpo.stages.records import Prompt, read_records, write_records
from focalpo.stages.track import Progress
from focalpo.training.jobs import source_of


def make(job: Job) -> dict:
    """Fill the job's folder with `samples.parquet`: prompt by prompt, the answers in the order of the seeds."""
    settings = job.settings
    prompts = read_records(job.inputs["prompts"] / "prompts.parquet", Prompt)
    with Generator(source_of(job), backend_of(job)) as generator:
        samples = generator.samples(
            [prompt.id for prompt in prompts],
            [prompt.prompt for prompt in prompts],
            Decoding(**settings["decoding"]),
            settings["seeds"],
            Parts(job.path, "samples"),
            Progress(job.path),
        )
    answers = [answer for drawn in samples for answer in drawn]
    write_records(job.path / "samples.parquet", answers)
    return {"samples": len(answers), "unfinished": sum(not answer.finished for answer in answers) / len(answers)}
