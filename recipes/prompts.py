"""The prompts for on-policy pairs: of a hub dataset, or of our own with verifiable instructions."""

from focalpo.checking.instructions import Instructed, check_kinds
from focalpo.checking.prompts import Draw, drawn
from focalpo.data.on_policy import SPLITS, hub_prompts
from focalpo.judging.protocol import EVAL
from focalpo.stages.folder import Job
from focalpo.stages.records import Prompt, write_records

TOPICS = {"train": "train", "test": "validation"}


def make(job: Job) -> dict:
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
