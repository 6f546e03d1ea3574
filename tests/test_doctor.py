"""What the doctor and the status say of machines and folders in known states."""

import fcntl
import shutil
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from focalpo.planning.table import planned
from focalpo.running.submit import Task
from focalpo.stages.folder import ERROR, LOCK, Folder, Stage
from recipes import doctor, status

KEY = "sk-planted-Q7x93kfPz-do-not-print-me"


def grades(*overrides: str) -> dict[str, str]:
    return {finding.what: finding.grade for finding in doctor._local(planned(list(overrides)))}


def test_a_machine_without_gpus_is_fine_for_the_pocket_table_and_not_for_the_papers(monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "fail" not in grades().values()
    paper = grades("table=paper")
    assert paper["gpu"] == paper["judge key"] == "fail" and paper["revision"] == "warn"


def test_the_judges_key_is_found_and_never_printed(monkeypatch, capsys) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(SystemExit):
        doctor.doctor(["table=paper"])
    said = capsys.readouterr().out
    assert "OPENAI_API_KEY is set" in said and KEY not in said
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in said.splitlines())
    assert all(": " in line for line in said.splitlines() if line.startswith(("fail", "warn"))), "a remedy each"


def test_models_that_the_hub_refuses_hides_or_cannot_be_asked_for_are_told_each_with_its_remedy(monkeypatch) -> None:
    """The paper's two models, asked of a hub that answers so; who has a token needs another remedy for a licence."""
    answer = httpx2.Response(403, request=httpx2.Request("GET", "https://hub.example"))

    def said(error: Exception | None, token: str | None = None) -> list[tuple[str, str, str]]:
        class Hub:
            def model_info(self, path: str, revision: str | None, timeout: float) -> None:
                if error:
                    raise error

            def auth_check(self, path: str) -> None: ...

        monkeypatch.setattr(doctor, "HfApi", Hub)
        monkeypatch.setattr(doctor, "get_token", lambda: token)
        return [(found.grade, found.what, found.said) for found in doctor._hub(planned(["table=paper"]))]

    assert [found[:2] for found in said(None)] == [("ok", "hub")] * 2
    gated = GatedRepoError("not yours", response=answer)
    for token, remedy in ((None, "after `hf auth login`"), ("a token", "with another account")):
        assert all(
            grade == "fail" and what == "licence" and text.endswith(remedy) for grade, what, text in said(gated, token)
        )
    hidden = said(RepositoryNotFoundError("no such thing", response=answer))
    assert all(found[:2] == ("fail", "hub") and "is not there, or hidden from you" in found[2] for found in hidden)
    away = said(OSError("no route to the hub"))
    assert all(found[:2] == ("warn", "hub") and "(no route to the hub): set HF_ENDPOINT" in found[2] for found in away)


def test_other_versions_than_the_lock_a_skewed_clock_and_a_full_disk_are_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1")
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 30))
    found = grades(f"runs={tmp_path}")
    assert found["versions"] == found["clock"] == found["disk"] == "warn"


def test_slurm_without_its_commands_is_a_failure(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert grades("cluster=slurm_cpu")["slurm"] == "fail"


def test_a_stage_is_in_one_of_the_states_that_status_tells(tmp_path: Path) -> None:
    folder = Folder(tmp_path, Stage("train", "dpo-s1", {}))
    assert status.state(folder, None) == "waits"
    assert status.state(folder, Task(folder.path, "5_1", "PENDING", "Dependency")) == "queued (5_1, Dependency)"
    folder.path.mkdir(parents=True)
    with (folder.path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status.state(folder, None) == "running"
        (folder.path / "progress.json").write_text('{"done": 3, "total": 9, "seconds": 1}')
        assert status.state(folder, None) == "3/9"
        assert status.state(folder, Task(folder.path, "5_1", "RUNNING", "None")) == "3/9 (5_1)"
    assert status.state(folder, None) == "stopped"
    (folder.path / ERROR).write_text("why")
    assert status.state(folder, None) == "failed"
    with folder.being_made():
        folder.seal(1.0)
    assert status.state(folder, None) == "sealed"
