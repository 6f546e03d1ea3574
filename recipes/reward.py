"""Score every sample with a reward model."""

from focalpo.answering.rewarding import RewardModel
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Prompt, Rated, read_records, write_records
from focalpo.training.engine import start_ranks
from focalpo.training.ranks import rank


def make(job: Job) -> dict:
    """Fill the job's folder with `rated.parquet`: all samples of all seeds, grouped by prompt."""
    start_ranks()
    prompts = read_records(job.inputs["prompts"] / "prompts.parquet", Prompt)
    seeds = job.settings["seeds"]
    samples = read_records(job.inputs["samples"] / "samples.parquet", Completion)
    drawn = [(prompt, seed) for prompt in prompts for seed in seeds]  # the order of the samples
    rows = [(prompt, seed, answer.text) for (prompt, seed), answer in zip(drawn, samples, strict=True)]
    model = RewardModel(**job.settings["reward"])
    scores = model.scores(
        [prompt.prompt for prompt, _, _ in rows], [text for _, _, text in rows], job.launch["batch_tokens"]
    )
    rated = [
        Rated(prompt.id, prompt.split, prompt.prompt, seed, text, score)
        for (prompt, seed, text), score in zip(rows, scores, strict=True)
    ]
    if rank() == 0:
        write_records(job.path / "rated.parquet", rated)
    return {"rated": len(rated)}
