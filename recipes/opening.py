"""What recipes open again and again: the model of a job, its tracker, its settings as the package's classes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import hf_hub_download

from focalpo.artifact import Job
from focalpo.config import shaped
from focalpo.generation import Backend
from focalpo.judging.protocol import Protocol, load_protocol
from focalpo.plan import EVAL
from focalpo.track import Tracker, TrackSettings
from focalpo.training.model import ModelSource
from focalpo.training.ranks import rank
from focalpo.training.settings import TrainSettings


def source_of(job: Job) -> ModelSource:
    """The model that the job's input stage made, else the released one that its settings name."""
    named = job.settings["model"]
    stops = tuple(named["stop_tokens"])
    if "model" in job.inputs:
        return ModelSource(str(job.inputs["model"] / "model"), None, named["chat_template"], stops)
    return ModelSource(named["path"], named["revision"], named["chat_template"], stops)


def unpinned(source: ModelSource) -> list[str]:
    """What to warn of when a released model has no pinned revision: the commit that the hub gave for it."""
    if source.revision or Path(source.path).is_dir():
        return []
    commit = Path(hf_hub_download(source.path, "config.json")).parent.name  # of the cache: snapshots/COMMIT/config.json
    return [f"{source.path}: no revision is pinned, its commit {commit} was used"]


def backend_of(job: Job) -> Backend:
    """What runs the model of a stage that generates."""
    launch = {name: value for name, value in job.launch.items() if name != "track"}
    return Backend(job.settings["backend"], job.settings["dtype"], **launch)


@contextlib.contextmanager
def tracker_of(job: Job) -> Iterator[Tracker | None]:
    """A tracker on rank 0, None on the others."""
    tracker = Tracker(job, shaped(job.launch.get("track", {}), TrackSettings)) if rank() == 0 else None
    succeeded = False
    try:
        yield tracker
        succeeded = True
    finally:
        if tracker is not None:
            tracker.close(succeeded)


def train_settings_of(job: Job) -> TrainSettings:
    return TrainSettings(**job.settings["train"], **job.launch["train"])


def protocol_of(settings: dict) -> Protocol:
    return load_protocol(EVAL / f"{settings['protocol']}.yaml")
