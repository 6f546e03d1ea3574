"""Score every sample: by a reward model, or by the share of its prompt's instructions that it follows."""

from focalpo.answering.rewarding import RewardModel
from focalpo.checking.instructions import Instructed, followed
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Prompt, Rated, read_records, write_records
from focalpo.training.engine import start_ranks
from focalpo.training.ranks import rank

Drawn = list[tuple[Prompt, int, Completion]]


def make(job: Job) -> dict:
    """Fill the job's folder with `rated.parquet`: all samples of all seeds, grouped by prompt."""
    prompts = read_records(job.inputs["prompts"] / "prompts.parquet", Prompt)
    samples = read_records(job.inputs["samples"] / "samples.parquet", Completion)
    places = [(prompt, seed) for prompt in prompts for seed in job.settings["seeds"]]  # the order of the samples
    drawn = [(prompt, seed, answer) for (prompt, seed), answer in zip(places, samples, strict=True)]
    rated = by_model(job, drawn) if "reward" in job.settings else by_checkers(job, drawn)
    if rank() == 0:
        write_records(job.path / "rated.parquet", rated)
    return {"rated": len(rated), "not_rated": len(drawn) - len(rated)}


def by_model(job: Job, drawn: Drawn) -> list[Rated]:
    """Every answer with its score by a reward model, on all ranks."""
    start_ranks()
    model = RewardModel(**job.settings["reward"])
    prompts, texts = [prompt.prompt for prompt, _, _ in drawn], [answer.text for _, _, answer in drawn]
    scores = model.scores(prompts, texts, job.launch["batch_tokens"])
    return [_rated(*each, score) for each, score in zip(drawn, scores, strict=True)]


def by_checkers(job: Job, drawn: Drawn) -> list[Rated]:
    """Every finished answer with the share of its instructions that it strictly follows.

    One that was cut is not rated: as the chosen answer it would teach to stop in the middle of a sentence.
    """
    asked = {each.id: each for each in read_records(job.inputs["prompts"] / "instructions.parquet", Instructed)}
    rated = []
    for prompt, seed, answer in drawn:
        if answer.finished:
            strict = followed(asked[prompt.id], answer.text).strict
            rated.append(_rated(prompt, seed, answer, sum(strict) / len(strict)))
    return rated


def _rated(prompt: Prompt, seed: int, answer: Completion, reward: float) -> Rated:
    return Rated(prompt.id, prompt.split, prompt.prompt, seed, answer.text, reward)
