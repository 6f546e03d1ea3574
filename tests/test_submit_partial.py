"""The table and the search that a Slurm job makes of what succeeded, equal to what a local run makes."""

import json
from pathlib import Path

import pytest

from focalpo.planning.stages import in_order, report_stage
from focalpo.planning.table import planned
from focalpo.running.launching import _failure_reason, in_new_processes
from focalpo.running.partial import complete, make_of_sealed
from focalpo.running.worker import make_here, refuse_damaged
from focalpo.stages.folder import Folder, Job, Stage


def seal(folder: Folder) -> None:
    with folder.being_made():
        folder.seal(1.0, {})


def test_a_run_counts_when_all_its_stages_are_sealed_and_a_benchmark_when_its_setting_has_one() -> None:
    names = [
        f"{place}/{kind}" for place in ("base/dpo/1", "base/sft/1", "instruct/dpo/1") for kind in ("train", "judge")
    ]
    names += ["benchmark/base/arena", "benchmark/instruct/arena"]
    lost = {"base/dpo/1/judge", "instruct/dpo/1/train"}
    assert complete({name: name not in lost for name in names}) == {
        *("base/sft/1/train", "base/sft/1/judge", "benchmark/base/arena")
    }
    assert complete({"0": True, "1": False, "2": True}) == {"0", "2"}, "points of a search"
    assert complete(dict.fromkeys(names, False)) == set()
    assert complete(dict.fromkeys(names, True)) == set(names)


def test_the_partial_report_is_the_one_that_a_local_run_makes(tmp_path: Path) -> None:
    """One training of two failed: its answers and verdicts were never made."""
    plan = planned(["rows=sft,dpo", "settings=base", "seeds=2"])
    failed = next(place for place, row in plan.rows.items() if row.train is not None)
    lost = {stage.key for stage in plan.rows[failed].stages()}
    for stage in in_order([plan.report])[:-1]:
        if stage.key not in lost:
            seal(Folder(tmp_path, stage))
    whole = Folder(tmp_path, plan.report)
    whole.path.mkdir(parents=True)
    whole.job.write()
    made: list[Folder] = []
    with pytest.raises(ValueError, match=f"has the others, these failed: {'/'.join(failed)}; make status") as error:
        make_of_sealed(Folder.at(whole.path), made.append)
    others = {place: row for place, row in plan.rows.items() if place != failed}
    local = Folder(tmp_path, report_stage(plan.table, others))
    assert [(each.path, each.job.inputs) for each in made] == [(local.path, local.job.inputs)]
    assert f"{error.value}\n" == (whole.path / "error.txt").read_text() and str(local.path) in str(error.value)


def test_a_search_with_failed_points_is_written_and_says_which(tmp_path: Path) -> None:
    """The second of two points failed; both rows of the results are there."""
    trained = [Stage("train", "point", {"n": n}) for n in range(2)]
    points = [{"setting": "base", "experiments": "pocket", "row": "dpo", "overrides": [f"a={n}"]} for n in range(2)]
    settings, inputs = {"by": "reward_accuracy", "points": points}, {str(n): s for n, s in enumerate(trained)}
    whole = Folder(tmp_path, Stage("sweep", "pocket", settings, inputs))
    whole.path.mkdir(parents=True)
    whole.job.write()
    with pytest.raises(ValueError, match="no run is complete, these failed: 0, 1; make status says why"):
        make_of_sealed(Folder.at(whole.path), lambda each: make_here(each, check=refuse_damaged))
    first = Folder(tmp_path, trained[0])
    with first.being_made() as job:
        write_states(job)
        first.seal(1.0, {"test": {"reward_accuracy": 0.5, "margin": 1.0}})
    with pytest.raises(ValueError, match="these failed: 1;"):
        make_of_sealed(Folder.at(whole.path), lambda each: make_here(each, check=refuse_damaged))
    (manifest,) = tmp_path.glob("sweep/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"] == {"points": 2, "trainings": 2, "failed": 1}
    assert (manifest.parent / "sweep.txt").read_text().splitlines()[1].endswith("failed")
    assert not whole.sealed, "run again, the whole search is made"


def write_states(job: Job) -> None:
    from focalpo.stages.records import PairState, write_records

    write_records(job.path / "dynamics.parquet", [PairState(0, "test", "a", -1.0, -2.0, 3, 3, None)])


def test_other_stages_with_a_missing_input_fail_as_before(tmp_path: Path) -> None:
    stage = Stage("judge", "x", {}, {"completions": Stage("generate", "x", {})})
    folder = Folder(tmp_path, stage)
    folder.path.mkdir(parents=True)
    folder.job.write()
    with pytest.raises(ValueError, match="is no stage folder"):
        make_of_sealed(Folder.at(folder.path), lambda each: make_here(each, check=refuse_damaged))


def test_the_log_of_a_stage_keeps_earlier_starts_and_reports_the_last(tmp_path: Path, monkeypatch) -> None:
    """Two failing starts in new processes; and a third that says nothing, whose reason is not that of the second."""
    folder = Folder(tmp_path, Stage("train", "x", {}, launch={"ranks": 1}))
    folder.path.mkdir(parents=True)
    log = folder.path / "log.txt"
    replies = iter(["error: first", "error: second", "nothing"])
    monkeypatch.setattr(
        "focalpo.running.launching._run", lambda command, file, *rest: file.write(f"{next(replies)}\n") and 1
    )
    for reason in ("^first$", "^second$", "^train failed, see the end of "):
        with pytest.raises(ValueError, match=reason):
            in_new_processes(folder.job, 1)
    assert log.read_text() == "error: first\nerror: second\nnothing\n"
    assert _failure_reason(folder.job, log, 0) == "second"
