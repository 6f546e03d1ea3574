"""What a stage's job says of its model and of its training, as this package's classes."""

from pathlib import Path

from huggingface_hub import hf_hub_download

from focalpo.stages.folder import Job
from focalpo.training.model import ModelSource
from focalpo.training.settings import TrainSettings


def source_of(job: Job) -> ModelSource:
    """The model that the job's input stage made, else the released one that its settings name."""
    named = job.settings["model"]
    stops = tuple(named["stop_tokens"])
    if "model" in job.inputs:
        return ModelSource(str(job.inputs["model"] / "model"), None, named["chat_template"], stops)
    return ModelSource(named["path"], named["revision"], named["chat_template"], stops)


def unpinned(source: ModelSource) -> list[str]:
    """A warning when a released model has no pinned revision, with the commit that the hub gave for it."""
    if source.revision or Path(source.path).is_dir():
        return []
    commit = Path(hf_hub_download(source.path, "config.json")).parent.name  # of the cache: snapshots/COMMIT/config.json
    return [f"{source.path}: no revision is pinned, its commit {commit} was used"]


def train_settings_of(job: Job) -> TrainSettings:
    """The job's training settings, those of its key and those of its execution."""
    return TrainSettings(**job.settings["train"], **job.launch["train"])
