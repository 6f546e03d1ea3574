"""The tracker of a running stage."""

import contextlib
from collections.abc import Iterator

from focalpo.config.compose import shaped
from focalpo.stages.folder import Job
from focalpo.stages.track import Tracker, TrackSettings
from focalpo.training.ranks import rank


@contextlib.contextmanager
def tracker_of(job: Job) -> Iterator[Tracker | None]:
    """Open a tracker on rank 0; yields None on the other ranks."""
    tracker = Tracker(job, shaped(job.launch.get("track", {}), TrackSettings)) if rank() == 0 else None
    succeeded = False
    try:
        yield tracker
        succeeded = True
    finally:
        if tracker is not None:
            tracker.close(succeeded)
