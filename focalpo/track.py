"""Metrics to `metrics.jsonl` always, to Weights & Biases when asked, and a progress file that anyone may read.

No prompt, completion or key ever passes through here: values are numbers, settings are a stage's own.
"""

import json
import os
import time
from dataclasses import dataclass

from focalpo.artifact import Job, write_json
from focalpo.records import append_json, read_json_lines


@dataclass(slots=True)
class TrackSettings:
    """`wandb`: off, offline or online; online without WANDB_API_KEY falls back to offline, never to a prompt."""

    wandb: str = "off"
    project: str = "focalpo"

    def __post_init__(self) -> None:
        if self.wandb not in ("off", "offline", "online"):
            raise ValueError(f"track.wandb={self.wandb!r} is not one of off, offline, online")


class Tracker:
    """Writes the metrics and the progress of one stage; only rank 0 has one that writes."""

    def __init__(self, job: Job, settings: TrackSettings) -> None:
        self.folder = job.path
        self.metrics = job.path / "metrics.jsonl"
        self.started = self.told = time.monotonic()
        self.run = _wandb_run(job, settings) if settings.wandb != "off" else None

    def log(self, step: int, **values: float) -> None:
        """Record metrics of a step."""
        append_json(self.metrics, {"step": step, **values})
        if self.run is not None:
            self.run.log(values, step=step)

    def progress(self, done: int, total: int, **values: float) -> None:
        """Tell how far the stage is, at most twice a second and at its end; done and total in the stage's own unit."""
        now = time.monotonic()
        if now - self.told < 0.5 and done < total:
            return
        self.told = now
        state = {"done": done, "total": total, "seconds": now - self.started, **values}
        write_json(self.folder / "progress.json", state)

    def resume_at(self, step: int) -> None:
        """Drop the metrics of steps that a resumed run will take again."""
        if not self.metrics.is_file():
            return
        kept = [json.dumps(row) + "\n" for row in read_json_lines(self.metrics) if row["step"] <= step]
        partial = self.metrics.with_name(f".{self.metrics.name}")
        partial.write_text("".join(kept))
        partial.replace(self.metrics)  # a kill here loses none of them

    def close(self) -> None:
        """Finish the W&B run, if any."""
        if self.run is not None:
            self.run.finish()


def _wandb_run(job: Job, settings: TrackSettings):
    import wandb

    mode = settings.wandb if os.environ.get("WANDB_API_KEY") else "offline"
    return wandb.init(
        project=settings.project,
        job_type=job.kind,
        name=job.name,
        id=f"{job.kind}-{job.key}",
        resume="allow" if mode == "online" else None,
        config=job.settings,
        mode=mode,
        dir=job.path.parent.parent,
        settings=wandb.Settings(silent=True, console="off"),
    )
