"""One model's answers to every set in the configuration, checked against the token contract, or to held-out prompts."""

import statistics
from collections.abc import Callable
from typing import Any

from focalpo.answering.contract import check_prompts, check_template, compare_logprobs
from focalpo.answering.engine import Decoding, backend_of
from focalpo.answering.generation import Generator
from focalpo.answering.parts import Parts
from focalpo.checking.instructions import share_followed
from focalpo.pocket.world import gold_reward
from focalpo.running.command import run_single
from focalpo.scoring.sanity import health, health_warnings
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Instructed, Pair, Question, read_records, write_records
from focalpo.stages.track import Progress
from focalpo.training.jobs import source_of, unpinned


def make_generate(job: Job) -> dict:
    """Fill the job's folder with `<set>.parquet`."""
    settings, source = job.settings, source_of(job)
    facts: dict[str, Any] = {}
    warnings = unpinned(source)
    with Generator(source, backend_of(job)) as generator:
        if "model" in job.inputs:
            check_template(job.inputs["model"] / "model", generator.tokenizer)
        for name, values in settings["sets"].items():
            decoding = Decoding(**{key: value for key, value in values.items() if key != "questions"})
            questions = read_records(job.inputs[values["questions"]] / "questions.parquet", Question)
            prompts = {question.id: question.prompt for question in questions}
            check_prompts(generator.tokenizer, prompts, generator.stops, source.path)
            parts, progress = Parts(job.path, name), Progress(job.path)
            completions = generator.answer(
                list(prompts), list(prompts.values()), decoding, settings["seed"], parts, progress
            )
            write_records(job.path / f"{name}.parquet", completions)
            facts[name] = health(completions, {question.id: question.reference for question in questions})
            warnings += health_warnings(name, facts[name])
        rows, scorer = generator.first_rows, generator.engine.logprobs
        logprobs = scorer(rows) if scorer else None
    if logprobs is not None:  # only after vLLM's process has ended, to free its memory for loading the weights again
        facts["logprobs"] = compare_logprobs(source, settings["dtype"], rows, logprobs)
    return facts | {"warnings": warnings}


def make_held_out(job: Job) -> dict:
    """Fill the job's folder with `answers.parquet`: a trained model's own to the prompts of the held-out pairs.

    Returns the mean of the reward that labelled the pairs, and its standard error over prompts.
    """
    pairs = read_records(job.inputs["pairs"] / "test.parquet", Pair)
    names, prompts = [pair.id for pair in pairs], [pair.prompt for pair in pairs]
    decoding, reward = Decoding(**job.settings["decoding"]), _reward(job)
    with Generator(source_of(job), backend_of(job)) as generator:
        parts, progress = Parts(job.path, "answers"), Progress(job.path)
        answers = generator.answer(names, prompts, decoding, job.settings["seed"], parts, progress)
    write_records(job.path / "answers.parquet", answers)
    rewards = [reward(each) for each in answers]
    error = statistics.stdev(rewards) / len(rewards) ** 0.5
    return {"prompts": len(rewards), "reward": statistics.fmean(rewards), "standard_error": error}


def _reward(job: Job) -> Callable[[Completion], float]:
    """The reward that labelled the pairs; of instructions, an answer that was cut follows what it follows."""
    if "prompts" not in job.inputs:
        return lambda each: gold_reward(each.prompt[-1]["content"], each.text, each.finished)
    asked = {each.id: each for each in read_records(job.inputs["prompts"] / "instructions.parquet", Instructed)}
    return lambda each: share_followed(asked[each.id], each.text)


if __name__ == "__main__":
    run_single("generate")
