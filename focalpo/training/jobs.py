"""Convert a stage's job into this package's classes: its model source and its training settings."""

from pathlib import Path

from huggingface_hub import hf_hub_download

from focalpo.stages.folder import Job
from focalpo.training.loading import explaining_load
from focalpo.training.model import ModelSource
from focalpo.training.settings import TrainSettings


def source_of(job: Job) -> ModelSource:
    """Return the model made by the job's input stage, else the released one named in its settings."""
    named = job.settings["model"]
    stops = tuple(named["stop_tokens"])
    if "model" in job.inputs:
        return ModelSource(str(job.inputs["model"] / "model"), None, named["chat_template"], stops)
    return ModelSource(named["path"], named["revision"], named["chat_template"], stops)


def unpinned(source: ModelSource) -> list[str]:
    """Return a warning if a released model has no pinned revision; it names the commit that the hub resolved."""
    if source.revision or Path(source.path).is_dir():
        return []
    with explaining_load(source.path):
        file = Path(hf_hub_download(source.path, "config.json"))
    commit = file.parent.name  # in the cache: snapshots/COMMIT/config.json
    return [f"{source.path}: no revision is pinned; commit {commit} was used"]


def train_settings_of(job: Job) -> TrainSettings:
    """Return the job's training settings: those in its key and those of its execution."""
    return TrainSettings(**job.settings["train"], **job.launch["train"])
