"""A runs folder is the same wherever it lies: copied, moved, renamed, linked, named from another place."""

import os
import shutil
from pathlib import Path

import pytest

from focalpo.planning.stages import in_order
from focalpo.reporting.table_run import TableRun
from focalpo.running.worker import repair
from focalpo.stages.folder import Folder, Job, write_json
from tests.conftest import made
from tests.sealed_table import planned


def copied(runs: Path, place: Path) -> Path:
    return Path(shutil.copytree(runs, place / "copied" / "runs"))


def moved(runs: Path, place: Path) -> Path:
    return Path(shutil.move(copied(runs, place), place / "moved"))


def renamed(runs: Path, place: Path) -> Path:
    return copied(runs, place).rename(place / "copied" / "results of may")


def linked(runs: Path, place: Path) -> Path:
    (place / "link").symlink_to(copied(runs, place))
    return place / "link"


def from_elsewhere(runs: Path, place: Path) -> Path:
    copied(runs, place)
    (place / "below").mkdir()
    os.chdir(place / "below")
    return Path("../copied/runs")


@pytest.mark.parametrize("change", [copied, moved, renamed, linked, from_elsewhere])
def test_nothing_is_made_again_and_nothing_of_the_old_place_is_read(
    sealed_report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = change(sealed_report.parent.parent, tmp_path)
    for stage in in_order([planned()]):
        folder = Folder(runs, stage)
        assert folder.sealed, stage.title
        job = Job.read(folder.path)
        assert job.inputs == folder.job.inputs
        assert all(path.is_dir() and path.is_relative_to(runs) for path in job.inputs.values())
        assert str(sealed_report.parent.parent) not in (folder.path / "stage.json").read_text()


@pytest.mark.parametrize("old", ["runs/{}", "/gone/runs/{}"])
def test_a_description_from_before_is_read_by_the_place_in_the_runs_folder(
    sealed_report: Path, tmp_path: Path, old: str
) -> None:
    runs = copied(sealed_report.parent.parent, tmp_path)
    train = next((runs / "train").iterdir())
    job = Job.read(train)
    values = {name: getattr(job, name) for name in ("kind", "name", "key", "settings", "launch")}
    inputs = {name: old.format(f"{path.parent.name}/{path.name}") for name, path in job.inputs.items()}
    write_json(train / "stage.json", values | {"inputs": inputs})
    assert Job.read(train) == job == Folder.at(train).job


@pytest.mark.slow
def test_a_moved_folder_gives_the_same_table(sealed_report: Path, tmp_path: Path) -> None:
    runs = moved(sealed_report.parent.parent, tmp_path)
    folder = Folder(runs, planned())
    shutil.rmtree(folder.path)
    again = made(folder)
    for name in ("table1.csv", "table1.md", "contamination.json"):
        assert (again / name).read_bytes() == (sealed_report / name).read_bytes()


def test_a_damaged_input_of_a_copy_is_repaired_in_the_copy(sealed_report: Path, tmp_path: Path) -> None:
    runs = copied(sealed_report.parent.parent, tmp_path)
    original = {path: path.read_bytes() for path in (sealed_report.parent.parent / "benchmark").rglob("*.parquet")}
    (damaged,) = (runs / "benchmark").glob("alpaca_eval-*")
    questions = (damaged / "questions.parquet").read_bytes()
    (damaged / "questions.parquet").write_bytes(b"damaged")
    repair(damaged)
    assert (damaged / "questions.parquet").read_bytes() == questions
    assert all(path.read_bytes() == content for path, content in original.items())


def test_the_report_reads_only_what_it_declares(sealed_report: Path) -> None:
    run = TableRun.read(sealed_report)
    for setting in run.settings:
        for row in run.rows:
            trained = run.seeds(setting, row, "train")
            assert run.seeds(setting, row, "pairs") == {
                seed: Job.read(folder).inputs["pairs"] for seed, folder in trained.items()
            }
