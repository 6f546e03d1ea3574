"""Metrics to `metrics.jsonl` always, to Weights & Biases when asked, and a progress file that anyone may read.

No prompt, completion or key ever passes through here: values are numbers, settings are a stage's own. Every stage is
one W&B run, whose id is the stage's key: a stage that goes on after a kill or a requeue goes on in the same run.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from focalpo.processes.memory import resident_peak
from focalpo.stages.folder import Job, write_json
from focalpo.stages.origin import commit
from focalpo.stages.records import append_json, read_json_lines

# What a stage's folder is to W&B, so that its lineage reads dataset -> reference -> checkpoint -> ... -> table.
ARTIFACT_TYPES = {
    "benchmark": "dataset",
    "pairs": "dataset",
    "reference": "reference",
    "sft": "checkpoint",
    "train": "checkpoint",
    "generate": "completions",
    "judge": "judgements",
    "report": "table",
}


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
        self.job = job
        self.metrics = job.path / "metrics.jsonl"
        self.started = self.told = time.monotonic()
        self.dashboard = Dashboard(job, settings) if settings.wandb != "off" else None

    def log(self, step: int, **values: float) -> None:
        """Record metrics of a step."""
        append_json(self.metrics, {"step": step, **values})
        if self.dashboard is not None:
            self.dashboard.log({"step": step, **values})

    def progress(self, done: int, total: int, **values: float) -> None:
        """Tell how far the stage is, at most twice a second and at its end; done and total in the stage's own unit."""
        now = time.monotonic()
        if now - self.told < 0.5 and done < total:
            return
        self.told = now
        memory = resident_peak() / 2**30
        state = {"done": done, "total": total, "seconds": now - self.started, "memory_gb": memory, **values}
        write_json(self.job.path / "progress.json", state)

    def resume_at(self, step: int) -> None:
        """Drop the metrics of steps that a resumed run will take again."""
        if not self.metrics.is_file():
            return
        kept = [json.dumps(row) + "\n" for row in read_json_lines(self.metrics) if row["step"] <= step]
        partial = self.metrics.with_name(f".{self.metrics.name}")
        partial.write_text("".join(kept))
        partial.replace(self.metrics)  # a kill here loses none of them

    def summary(self, facts: dict) -> None:
        """The stage's facts, for the W&B run's summary; its manifest holds them anyway."""
        if self.dashboard is not None:
            self.dashboard.summary(facts)

    def close(self, succeeded: bool = True) -> None:
        """Finish the W&B run, if any; a stage that succeeded leaves its artifact there."""
        if self.dashboard is not None:
            self.dashboard.close(self.job, succeeded)


class Dashboard:
    """A stage's W&B run. When W&B is absent or fails it says so once, in the log, and the stage goes on without it."""

    def __init__(self, job: Job, settings: TrackSettings) -> None:
        self.run: Any = None
        self._attempt(lambda: self._open(job, settings))

    def log(self, values: dict[str, float]) -> None:
        """One row of history; `step` is a value like others, so that steps taken again after a kill are no error."""
        if self.run is not None:
            self._attempt(lambda: self.run.log(values))

    def summary(self, facts: dict) -> None:
        """Facts of the whole stage."""
        if self.run is not None:
            self._attempt(lambda: self.run.summary.update(facts))

    def close(self, job: Job, succeeded: bool) -> None:
        """Log what the stage made, when it made it, and end the run."""
        if self.run is not None and succeeded:
            self._attempt(lambda: self.run.log_artifact(_artifact(job)))
        if self.run is not None:
            self._attempt(lambda: self.run.finish(exit_code=0 if succeeded else 1))

    def _open(self, job: Job, settings: TrackSettings) -> None:
        import wandb

        mode = settings.wandb if os.environ.get("WANDB_API_KEY") else "offline"
        self.run = wandb.init(
            project=settings.project,
            job_type=job.kind,
            group=group_of(job),
            name=job.name,
            tags=tags_of(job),
            id=run_id(job),
            resume="allow" if mode == "online" else None,
            config=job.settings | {"key": job.key, "commit": commit(), "inputs": lineage_of(job)},
            mode=mode,
            dir=job.path.parent.parent,
            settings=wandb.Settings(silent=True, console="off", x_stats_sampling_interval=5),
        )
        self.run.define_metric("*", step_metric="step")
        if mode == "online":  # offline W&B refuses it; there the inputs stand in the config alone
            for path in job.inputs.values():
                self.run.use_artifact(_artifact(Job.read(path)))

    def _attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever W&B raises (network, disk, its own service): it never stops a stage
            print(f"W&B failed and is left out from here: {type(error).__name__}: {error}", file=sys.stderr)
            self.run = None


def run_id(job: Job) -> str:
    """W&B's id of the stage's run."""
    return f"{job.kind}-{job.key}"


def group_of(job: Job) -> str:
    """Seeds of one row share a group."""
    return job.name.rpartition("-s")[0] or job.name


def tags_of(job: Job) -> list[str]:
    """What runs are filtered by: the kind of stage and, for training, the loss."""
    objective = job.settings.get("objective", {}).get("name")
    return [job.kind, *([objective] if objective else [])]


def lineage_of(job: Job) -> dict[str, str]:
    """The artifacts that the stage reads, by input name."""
    return {name: f"{path.parent.name}-{path.name.rpartition('-')[2]}" for name, path in job.inputs.items()}


def _artifact(job: Job):
    """The stage as an artifact: what it is, not its bytes, which stay in its folder."""
    import wandb

    artifact = wandb.Artifact(f"{job.kind}-{job.key}", ARTIFACT_TYPES.get(job.kind, job.kind))
    with artifact.new_file("stage.json") as file:
        json.dump({"kind": job.kind, "key": job.key, "settings": job.settings}, file, indent=1, sort_keys=True)
    return artifact
