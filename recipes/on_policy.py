"""On-policy answers: prompts, samples of the policy, and a score of each."""

from focalpo.answering.engine import Decoding, backend_of
from focalpo.answering.generation import Generator
from focalpo.answering.parts import Parts
from focalpo.answering.rewarding import RewardModel
from focalpo.checking.instructions import Instructed, check_kinds, share_followed
from focalpo.checking.prompts import Draw, drawn
from focalpo.data.on_policy import SPLITS, hub_prompts
from focalpo.judging.protocol import EVAL
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Prompt, Rated, read_records, write_records
from focalpo.stages.track import Progress
from focalpo.training.engine import start_ranks
from focalpo.training.jobs import source_of
from focalpo.training.ranks import rank

TOPICS = {"train": "train", "test": "validation"}


def make_prompts(job: Job) -> dict:
    """Fill the job's folder with `prompts.parquet`, and `instructions.parquet` where a program can verify them."""
    prompts = own_prompts(job) if "file" in job.settings else published_prompts(job.settings)
    write_records(job.path / "prompts.parquet", prompts)
    return {"prompts": len(prompts)}


def published_prompts(settings: dict) -> list[Prompt]:
    """The prompts of a hub dataset."""
    splits = (settings["train_split"], settings["test_split"])
    return hub_prompts(settings["path"], settings["revision"], splits, settings["limit"], settings["ignore_columns"])


def own_prompts(job: Job) -> list[Prompt]:
    """Prompts drawn from a file of eval/; its held-out topics and its new kinds are for the benchmarks."""
    settings, file = job.settings, EVAL / f"{job.settings['file']}.yaml"
    counts = dict(zip(SPLITS, (settings["prompts"], settings["test_prompts"]), strict=True))
    made: dict[str, list[Instructed]] = {
        split: drawn(file, Draw(TOPICS[split], "trained", count, settings["seed"])) for split, count in counts.items()
    }
    every = [each for split in SPLITS for each in made[split]]
    check_kinds(every)
    write_records(job.path / "instructions.parquet", every)
    return [
        Prompt(each.id, split, [{"role": "user", "content": each.prompt}]) for split in SPLITS for each in made[split]
    ]


def make_sample(job: Job) -> dict:
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


Drawn = list[tuple[Prompt, int, Completion]]


def make_reward(job: Job) -> dict:
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
    finished = [each for each in drawn if each[-1].finished]
    return [_rated(*each, share_followed(asked[each[0].id], each[-1].text)) for each in finished]


def _rated(prompt: Prompt, seed: int, answer: Completion, reward: float) -> Rated:
    return Rated(prompt.id, prompt.split, prompt.prompt, seed, answer.text, reward)
