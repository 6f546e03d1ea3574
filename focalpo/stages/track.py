"""Tracking: metrics always go to `metrics.jsonl`, optionally to Weights & Biases; progress goes to a JSON file.

No prompt, completion or API key passes through this module: values are numbers, settings are the stage's own. Every
stage is one W&B run whose id contains the stage's key, so a stage resumed after a kill or a requeue continues that run.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from focalpo.stages.folder import Job, write_json
from focalpo.stages.memory import resident_peak
from focalpo.stages.origin import commit
from focalpo.stages.records import append_json, read_json_lines
from focalpo.stages.track_settings import TrackSettings

# The W&B artifact type of a stage folder, so that its lineage reads dataset -> reference -> checkpoint -> ... -> table.
ARTIFACT_TYPES = {
    "benchmark": "dataset",
    "pairs": "dataset",
    "reference": "reference",
    "anchors": "reference",
    "convert": "checkpoint",
    "sft": "checkpoint",
    "train": "checkpoint",
    "generate": "completions",
    "judge": "judgements",
    "duel": "judgements",
    "check": "judgements",
    "capability": "scores",
    "report": "table",
    "duels": "table",
}


class Progress:
    """Reports the progress of one stage, at most twice a second and at the end; both counts are in its own unit."""

    def __init__(self, stage: Path) -> None:
        self.path = stage / "progress.json"
        self.started = self.reported = time.monotonic()

    def __call__(self, done: int, total: int, **values: float) -> None:
        now = time.monotonic()
        if now - self.reported < 0.5 and done < total:
            return
        self.reported = now
        memory = resident_peak() / 2**30
        state = {"done": done, "total": total, "seconds": now - self.started, "memory_gb": memory, **values}
        write_json(self.path, state)


class Tracker:
    """Writes the metrics of one stage and reports its progress; only rank 0 has one."""

    def __init__(self, job: Job, settings: TrackSettings) -> None:
        self.job = job
        self.metrics = job.path / "metrics.jsonl"
        self.evaluations = job.path / "evaluation.jsonl"
        self.repeated = job.path / ".repeated.jsonl"
        self.progress = Progress(job.path)
        self.dashboard = Dashboard(job, settings, self._rows()) if settings.wandb != "off" else None

    def log(self, step: int, **values: float) -> None:
        """Record the metrics of a step."""
        append_json(self.metrics, {"step": step, **values})
        if self.dashboard is not None:
            self.dashboard.log({"step": step, **values})

    def evaluated(self, step: int, **values: float) -> None:
        """Record an evaluation of the policy after a step, apart from the training steps of `metrics.jsonl`."""
        append_json(self.evaluations, {"step": step, **values})
        if self.dashboard is not None:
            self.dashboard.log({"step": step, **{f"eval_{name}": value for name, value in values.items()}})

    def resume_at(self, step: int) -> None:
        """Move what a resumed run repeats out of the way: steps after `step`, and the evaluation at `step` itself."""
        self._keep(self.metrics, step)
        self._keep(self.evaluations, step - 1)

    def _keep(self, file: Path, last: int) -> None:
        """Move the rows of steps after `last` to those that are repeated."""
        if not file.is_file():
            return
        rows = read_json_lines(file)
        for row in rows:
            if row["step"] > last:
                append_json(self.repeated, row)
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= last]
        partial = file.with_name(f".{file.name}")
        partial.write_text("".join(kept))
        partial.replace(file)  # atomic: a kill here loses no metric

    def _rows(self) -> int:
        """How many rows earlier starts of the stage have logged."""
        files = (self.metrics, self.evaluations, self.repeated)
        return sum(len(read_json_lines(path)) for path in files if path.is_file())

    def summary(self, facts: dict) -> None:
        """Copy the stage's facts to the summary of the W&B run; the manifest holds them in any case."""
        if self.dashboard is not None:
            self.dashboard.summary(facts)

    def close(self, succeeded: bool = True) -> None:
        """Finish the W&B run, if any; a stage that succeeded logs its artifact first."""
        if self.dashboard is not None:
            self.dashboard.close(self.job, succeeded)


class Dashboard:
    """The W&B run of a stage; if W&B is missing or fails, it logs one line and the stage continues without it."""

    def __init__(self, job: Job, settings: TrackSettings, rows: int = 0) -> None:
        self.run: Any = None
        self.rows = rows  # of the run's history so far; an offline run does not know about its earlier starts
        self._attempt(lambda: self._open(job, settings))

    def log(self, values: dict[str, float]) -> None:
        """Log one row of history. W&B's own step is the number of the row, which goes on after a kill; ours, `step`, is
        an ordinary value of the row, so repeating it is not an error."""
        if self.run is not None:
            self._attempt(lambda: self.run.log(values, step=self.rows, commit=True))
            self.rows += 1

    def summary(self, facts: dict) -> None:
        """Add facts about the whole stage to the run's summary."""
        if self.run is not None:
            self._attempt(lambda: self.run.summary.update(facts))

    def close(self, job: Job, succeeded: bool) -> None:
        """Log the stage's artifact if it succeeded, and finish the run."""
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
        if mode == "online":  # offline W&B refuses it; the inputs are then only in the config
            for path in job.inputs.values():
                self.run.use_artifact(_artifact(Job.read(path)))

    def _attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever W&B raises (network, disk, its service), it must not stop a stage
            print(f"W&B failed and is disabled from here on: {type(error).__name__}: {error}", file=sys.stderr)
            self.run = None


def run_id(job: Job) -> str:
    """The id of the stage's W&B run."""
    return f"{job.kind}-{job.key}"


def group_of(job: Job) -> str:
    """The W&B group of the run: the seeds of one row share a group."""
    return job.name.rpartition("-s")[0] or job.name


def tags_of(job: Job) -> list[str]:
    """Tags to filter runs by: the kind of stage and, for training, the loss."""
    objective = job.settings.get("objective", {}).get("name")
    return [job.kind, *([objective] if objective else [])]


def lineage_of(job: Job) -> dict[str, str]:
    """Names of the W&B artifacts that the stage reads, by input name."""
    return {name: f"{path.parent.name}-{path.name.rpartition('-')[2]}" for name, path in job.inputs.items()}


def _artifact(job: Job):
    """The stage as a W&B artifact: its description only; the files stay in the stage folder."""
    import wandb

    artifact = wandb.Artifact(f"{job.kind}-{job.key}", ARTIFACT_TYPES.get(job.kind, job.kind))
    with artifact.new_file("stage.json") as file:
        json.dump({"kind": job.kind, "key": job.key, "settings": job.settings}, file, indent=1, sort_keys=True)
    return artifact
