"""Single stages and searches beside a table: shown by its status, and cancelled by name, with what only they need."""

from pathlib import Path

import pytest

from focalpo.config.mistakes import Mistake
from focalpo.running.command import run_single
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.lock import LOCK, held
from recipes.cancel import cancel
from recipes.status import status
from recipes.sweep import sweep
from tests.test_submit_cluster import program

TABLE = ["rows=sft", "settings=base", "seeds=1"]
SLURM = [*TABLE, "cluster=slurm_cpu"]


@pytest.fixture
def runs(fake_slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Path:
    """A search of two points and a single training with the same model and pairs, all in the queue."""
    found = tmp_path / "runs"
    more = ["cluster=slurm_cpu", f"runs={found}"]
    sweep(
        [
            "rows=focalpo",
            "settings=base",
            "objective.gamma=0,0.1",
            "objective.beta=0.3",
            "train.learning_rate=1e-3",
            "seed=1",
            *more,
        ]
    )
    program(fake_slurm, "squeue", listed(found))
    monkeypatch.setattr("sys.argv", ["train", "objective=ipo", *more])
    run_single("train")
    program(fake_slurm, "squeue", listed(found))
    program(fake_slurm, "scancel", f'echo "$@" > {tmp_path}/cancelled')
    capsys.readouterr()
    return found


def listed(runs: Path) -> str:
    """A queue in which every task that was submitted waits; its job is named after its array."""
    tasks = [
        (file.name, n)
        for file in sorted((runs / ".slurm").iterdir())
        for n, _ in enumerate(file.read_text().splitlines())
    ]
    return "\n".join(f"echo '{name}_{n}|PENDING|Priority|{name}'" for name, n in tasks)


def kinds(cancelled: str) -> list[str]:
    return sorted(job.partition("-")[0] for job in cancelled.split())


def titles(runs: Path, kind: str) -> list[str]:
    return [f"{kind}/{path.name}" for path in sorted((runs / kind).iterdir())]


def test_status_shows_what_is_queued_besides_the_table(runs: Path, capsys) -> None:
    status([*SLURM, f"runs={runs}"])
    lines = capsys.readouterr().out.splitlines()
    beside = {line.split()[0] for line in lines if line.endswith("not of this table")}
    kinds = ("pairs", "reference", "train", "held_out", "sweep")  # the start model is also one of the table
    assert beside == {title for kind in kinds for title in titles(runs, kind)} and len(beside) == 8
    assert any(line.startswith("sft/") and "queued (sft-" in line for line in lines)


def test_what_runs_here_besides_the_table_is_shown_by_its_lock(tmp_path: Path, capsys) -> None:
    folder, idle = Folder(tmp_path, Stage("train", "dpo-s1", {})), Folder(tmp_path, Stage("train", "ipo-s1", {}))
    with idle.being_made():
        pass
    assert not held(folder.path) and not (folder.path / LOCK).exists()
    with folder.being_made():
        assert held(folder.path) and not held(idle.path)
        status([*TABLE, f"runs={tmp_path}"])
    assert not held(folder.path) and (folder.path / LOCK).read_text() == "x", "a look is no start"
    beside = [line for line in capsys.readouterr().out.splitlines() if line.endswith("not of this table")]
    assert [line.split()[:2] for line in beside] == [[f"train/{folder.path.name}", "running,"]]


def test_a_search_is_cancelled_without_what_another_stage_waits_for(runs: Path, tmp_path: Path, capsys) -> None:
    cancel([*SLURM, f"runs={runs}", "sweep/pocket"])
    assert kinds((tmp_path / "cancelled").read_text()) == ["held_out", "held_out", "sweep", "train", "train"]
    (single,) = [title for title in titles(runs, "train") if title.startswith("train/ipo")]
    output = capsys.readouterr().out
    assert "5 jobs cancelled" in output and f"are left, as {single}; make cancel STAGE={single} cancels one" in output


def test_both_are_cancelled_with_all_that_they_need(runs: Path, tmp_path: Path, capsys) -> None:
    cancel([*SLURM, f"runs={runs}", "sweep/pocket", *(t for t in titles(runs, "train") if "ipo" in t)])
    found = kinds((tmp_path / "cancelled").read_text())
    assert found == [*2 * ["held_out"], "pairs", "reference", "sft", "sft", "sweep", "train", "train", "train"]
    assert "left" not in capsys.readouterr().out


def test_the_tables_own_jobs_leave_the_others(runs: Path, tmp_path: Path, capsys) -> None:
    cancel([*SLURM, f"runs={runs}"])
    assert kinds((tmp_path / "cancelled").read_text()) == ["sft", "sft"]
    assert "8 others are left" in capsys.readouterr().out


def test_a_stage_that_is_not_queued_is_a_mistake(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"train/ipo-s2 is not in the queue; did you mean train/ipo-s1-"):
        cancel([*SLURM, f"runs={runs}", "train/ipo-s2"])
    assert not (tmp_path / "cancelled").exists()
