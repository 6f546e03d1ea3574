"""Tracking: metrics.jsonl always, W&B offline without a key, nothing that is a secret or a prompt."""

import json
import time
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from focalpo.artifact import Job
from focalpo.records import read_json_lines
from focalpo.track import Tracker, TrackSettings


def job(folder: Path) -> Job:
    path = folder / "train" / "dpo-s1-0123456789ab"
    path.mkdir(parents=True)
    return Job("train", "dpo-s1", "0123456789ab", {"objective": {"name": "dpo"}}, {}, path, {})


def offline_metrics(folder: Path) -> list[dict[str, float]]:
    """The history rows in an offline run's file: records of W&B's own protobuf in the frames of a leveldb log."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, place, rows, parts = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
            if record.history.item:
                rows.append({key: value for key, value in items.items() if not key.startswith("_")})
    return rows


def test_metrics_are_lines_of_json_and_a_resumed_run_takes_no_step_twice(tmp_path: Path) -> None:
    made = job(tmp_path)
    tracker = Tracker(made, TrackSettings())
    for step in (1, 2, 3, 4):
        tracker.log(step, loss=1 / step)
    resumed = Tracker(made, TrackSettings())
    resumed.resume_at(2)
    resumed.log(3, loss=0.25)
    rows = read_json_lines(made.path / "metrics.jsonl")
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]


def test_progress_tells_how_far_and_is_always_written_at_the_end(tmp_path: Path) -> None:
    made = job(tmp_path)
    tracker = Tracker(made, TrackSettings())
    tracker.progress(1, 3)
    assert not (made.path / "progress.json").exists(), "at most twice a second"
    tracker.progress(3, 3, loss=0.5)
    state = json.loads((made.path / "progress.json").read_text())
    assert (state["done"], state["total"], state["loss"]) == (3, 3, 0.5)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_without_a_key_wandb_writes_every_metric_to_disk_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = Tracker(job(tmp_path), TrackSettings(wandb=mode))
    tracker.log(1, loss=0.5, grad_norm=2.0)
    tracker.log(2, loss=0.25, grad_norm=1.0)
    tracker.close()
    expected = [{"loss": 0.5, "grad_norm": 2.0}, {"loss": 0.25, "grad_norm": 1.0}]
    deadline = time.monotonic() + 30  # W&B's writer is a process of its own and may lag behind on a busy machine
    while offline_metrics(tmp_path) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert offline_metrics(tmp_path) == expected


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="track.wandb='on' is not one of off, offline, online"):
        TrackSettings(wandb="on")
