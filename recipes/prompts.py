"""The prompts for on-policy pairs."""

from focalpo.data.on_policy import hub_prompts
from focalpo.stages.folder import Job
from focalpo.stages.records import write_records


def make(job: Job) -> dict:
    """Fill the job's folder with `prompts.parquet`."""
    settings = job.settings
    splits = (settings["train_split"], settings["test_split"])
    prompts = hub_prompts(settings["path"], settings["revision"], splits, settings["limit"], settings["ignore_columns"])
    write_records(job.path / "prompts.parquet", prompts)
    return {"prompts": len(prompts)}
