"""Tracking: metrics.jsonl always, W&B offline without a key, and no secrets or prompts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from wandb.proto import wandb_internal_pb2

from focalpo.stages.folder import Job
from focalpo.stages.metrics import METRICS
from focalpo.stages.ranges import out_of_range
from focalpo.stages.records import read_json_lines
from focalpo.stages.track import Dashboard, Tracker, TrackSettings
from focalpo.training import engine
from focalpo.training.objective import Logps, Loss


def make_job(folder: Path, kind: str = "train", inputs: dict[str, Path] | None = None) -> Job:
    path = folder / kind / "dpo-s1-0123456789ab"
    path.mkdir(parents=True)
    job = Job(kind, "base-dpo-s1", "0123456789ab", {"objective": {"name": "dpo"}}, {}, path, inputs or {})
    job.write()
    return job


def offline_records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """Records in the file of an offline run: W&B protobuf messages in leveldb log frames."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return records_of(path)


def records_of(path: Path) -> list[wandb_internal_pb2.Record]:
    data, place, records, parts = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            records.append(record)
    return records


def ended(folder: Path) -> list[wandb_internal_pb2.Record]:
    """All records, once W&B's writer process has written the last one."""
    deadline = time.monotonic() + 60
    while not any(record.HasField("exit") for record in offline_records(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return offline_records(folder)


def history(records: list[wandb_internal_pb2.Record]) -> list[dict[str, float]]:
    rows = [{(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.history.item} for r in records]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows if row]


def test_metrics_are_json_lines_and_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    tracker = Tracker(job, TrackSettings())
    for step in (1, 2, 3, 4):
        tracker.log(step, loss=1 / step)
    resumed = Tracker(job, TrackSettings())
    resumed.resume_at(2)
    resumed.log(3, loss=0.25)
    rows = read_json_lines(job.path / "metrics.jsonl")
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]


def test_progress_is_throttled_and_always_written_at_the_end(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    tracker = Tracker(job, TrackSettings())
    tracker.progress(1, 3)
    assert not (job.path / "progress.json").exists(), "at most twice a second"
    tracker.progress(3, 3, loss=0.5)
    state = json.loads((job.path / "progress.json").read_text())
    assert (state["done"], state["total"], state["loss"]) == (3, 3, 0.5)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_without_a_key_wandb_writes_every_metric_to_disk_and_never_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was prompted"))
    job = make_job(tmp_path)
    tracker = Tracker(job, TrackSettings(wandb=mode))
    values = {name: place / 8 for place, name in enumerate(METRICS)}
    tracker.log(1, **values)
    tracker.resume_at(0)  # as after a kill: step 1 is repeated
    tracker.log(1, **values)
    tracker.log(2, **values)
    tracker.summary({"pairs": 7})
    tracker.close()
    records = ended(tmp_path)
    lines = read_json_lines(job.path / "metrics.jsonl")
    assert [row["step"] for row in history(records)] == [1, 1, 2], "W&B plots by step: a repeated step is fine"
    assert history(records)[1:] == lines and set(lines[0]) == {"step", *METRICS}
    summary = {item.key: item.value_json for record in records for item in record.summary.update}
    assert summary["pairs"] == "7"
    assert any(record.stats.item for record in records), "system metrics are recorded as well"


KILLED = """
import sys, time
from pathlib import Path
from focalpo.stages.folder import Job
from focalpo.stages.track import Tracker, TrackSettings
tracker = Tracker(Job.read(Path(sys.argv[1])), TrackSettings(wandb="offline"))
saved, last = int(sys.argv[2]), int(sys.argv[3])
tracker.resume_at(saved)
for step in range(saved + 1, last + 1):
    tracker.log(step, loss=1.0)
time.sleep(300)
"""


def rows_of(path: Path) -> list[wandb_internal_pb2.Record]:
    return [record for record in records_of(path) if record.history.item]


@pytest.mark.slow
def test_the_steps_of_an_offline_run_go_on_after_each_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after steps 5, 7 and 6, and each time resumed from the checkpoint of step 2: rows 0-4, 5-9 and 10-13."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    job = make_job(tmp_path)
    starts: dict[Path, list] = {}
    for saved, last in ((0, 5), (2, 7), (2, 6)):
        command = [sys.executable, "-c", KILLED, str(job.path), str(saved), str(last)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(1)  # W&B names the folder of a start by its second
            files = set(tmp_path.glob("wandb/offline-run-*/run-*.wandb")) - starts.keys()
            if files and len(rows_of(min(files))) == last - saved:
                break
        process.kill()
        process.wait()
        (path,) = files
        starts[path] = rows_of(path)
    assert {path.stem for path in starts} == {"run-train-0123456789ab"}, "one run, in the folders of three starts"
    assert [[row.history.step.num for row in rows] for rows in starts.values()] == [
        list(range(0, 5)), list(range(5, 10)), list(range(10, 14)),
    ]  # fmt: skip
    assert [[row["step"] for row in history(rows)] for rows in starts.values()] == [
        [1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [3, 4, 5, 6],
    ]  # fmt: skip
    assert [row["step"] for row in read_json_lines(job.path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


class Stub:
    """The W&B run of one start: keeps the step of each row."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, values: dict, step: int, commit: bool) -> None:
        assert commit, "or the last row before a kill is lost"
        self.steps.append(step)


def test_rows_are_numbered_over_all_starts_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, runs = make_job(tmp_path), []
    for saved, last in ((0, 5), (2, 7), (2, 6), (6, 8)):
        with monkeypatch.context() as patch:
            patch.setattr(Dashboard, "_open", lambda self, job, settings: setattr(self, "run", Stub()))
            tracker = Tracker(job, TrackSettings(wandb="offline"))
        tracker.resume_at(saved)
        for step in range(saved + 1, last + 1):
            tracker.log(step, loss=1.0)
        runs.append(tracker.dashboard.run.steps)
    assert runs == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13], [14, 15]]


def test_a_run_has_its_row_as_group_and_its_inputs_in_the_config(tmp_path: Path) -> None:
    pairs = make_job(tmp_path, "pairs")
    tracker = Tracker(make_job(tmp_path, "train", {"pairs": pairs.path}), TrackSettings(wandb="offline"))
    tracker.close()
    records = ended(tmp_path)
    (run,) = (record.run for record in records if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_id, run.run_group, run.job_type) == ("train-0123456789ab", "base-dpo", "train")
    assert list(run.tags) == ["train", "dpo"] and config["objective"] == {"name": "dpo"}
    assert config["inputs"] == {"pairs": "pairs-0123456789ab"}
    (artifact,) = (record.artifact for record in records if record.HasField("artifact"))
    assert (artifact.type, artifact.name) == ("checkpoint", "train-0123456789ab")


class FakeWandb:
    """A fake of the online W&B API as used by a stage; records what it receives."""

    def __init__(self) -> None:
        self.settings: dict = {}
        self.used: list[tuple[str, str]] = []
        self.logged: list[tuple[str, str]] = []
        self.summary: dict = {}
        self.exit_code: int | None = None

    def init(self, **settings) -> "FakeWandb":
        self.settings = settings
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def use_artifact(self, artifact) -> None:
        self.used.append((artifact.type, artifact.name))

    def log_artifact(self, artifact) -> None:
        self.logged.append((artifact.type, artifact.name.partition(":")[0]))

    def log(self, values: dict, step: int, commit: bool) -> None:
        raise OSError("no route to host")

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def online(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setenv("WANDB_API_KEY", "not-a-key")
    monkeypatch.setattr("wandb.init", fake.init)
    return fake


def test_with_a_key_the_run_can_resume_after_a_requeue_and_uses_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = online(monkeypatch)
    pairs = make_job(tmp_path, "pairs")
    tracker = Tracker(make_job(tmp_path, "train", {"pairs": pairs.path}), TrackSettings(wandb="online"))
    tracker.close()
    assert (fake.settings["resume"], fake.settings["id"]) == ("allow", "train-0123456789ab")
    assert fake.settings["mode"] == "online"
    assert "not-a-key" not in json.dumps({k: v for k, v in fake.settings.items() if k == "config"})
    assert fake.used == [("dataset", "pairs-0123456789ab")]
    assert fake.logged == [("checkpoint", "train-0123456789ab")] and fake.exit_code == 0


def test_a_failed_stage_logs_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = online(monkeypatch)
    Tracker(make_job(tmp_path), TrackSettings(wandb="online")).close(succeeded=False)
    assert fake.logged == [] and fake.exit_code == 1


def test_a_wandb_failure_is_reported_once_and_does_not_stop_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    online(monkeypatch)
    job = make_job(tmp_path)
    tracker = Tracker(job, TrackSettings(wandb="online"))
    for step in (1, 2, 3):
        tracker.log(step, loss=1.0)
    tracker.close()
    assert len(read_json_lines(job.path / "metrics.jsonl")) == 3
    assert capsys.readouterr().err == "W&B failed and is disabled from here on: OSError: no route to host\n"


def test_a_missing_wandb_does_not_stop_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    job = make_job(tmp_path)
    tracker = Tracker(job, TrackSettings(wandb="offline"))
    tracker.log(1, loss=1.0)
    tracker.close()
    assert len(read_json_lines(job.path / "metrics.jsonl")) == 1


def test_every_metric_of_training_has_a_display_name() -> None:
    batch = Logps({b: torch.zeros(2) for b in ("chosen", "rejected")}, {}, {}, {})
    logged = engine._metrics(batch, Loss(torch.zeros(2), torch.zeros(2), torch.zeros(2)))
    assert {*logged, "learning_rate", "grad_norm"} == set(METRICS)


def test_an_unknown_mode_is_rejected() -> None:
    assert list(out_of_range(TrackSettings(wandb="on"), "track.")) == [
        "track.wandb='on' must be off, offline or online"
    ]


def test_training_on_chosen_answers_alone_logs_no_reward_metrics() -> None:
    batch = Logps({"chosen": torch.zeros(2)}, {}, {}, {})
    logged = engine._metrics(batch, Loss(torch.zeros(2), torch.zeros(2), torch.zeros(2)))
    assert set(logged) == {"loss", "logps_chosen"}
