"""What doctor and status report for machines and folders in known states."""

import fcntl
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from focalpo.planning.table import planned
from focalpo.running.slurm import Task
from focalpo.stages.folder import ERROR, LOCK, Folder, Stage
from recipes import doctor, status
from tests.judge_stub import Fault, completion, judge_stub

KEY = "sk-planted-Q7x93kfPz-do-not-print-me"


def grades(*overrides: str) -> dict[str, str]:
    return {finding.what: finding.grade for finding in doctor._local(planned(list(overrides)))}


def test_a_machine_without_gpus_can_run_the_pocket_table_but_not_the_papers(monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "fail" not in grades().values()
    paper = grades("table=paper")
    assert paper["gpu"] == paper["judge key"] == "fail" and paper["revision"] == "warn"
    assert "checkers" in paper and "checkers" not in grades()


def test_gpus_with_less_memory_than_planned_for_are_reported(monkeypatch) -> None:
    """Two GPUs, the smaller of 22.1 GiB: 24 planned for is too much, 23 is within a few per cent."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "one of them")
    sizes = [SimpleNamespace(total_memory=gib * 2**30) for gib in (80, 22.1)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: sizes[place])

    def found(*overrides: str) -> doctor.Finding:
        plan = planned(["table=one_gpu", *overrides])
        return next(finding for finding in doctor.gpus(plan.first, False) if finding.what == "gpu memory")

    assert found().grade == "warn" and found().message.endswith("set launch.gpu_gib=22 and see what make plan advises")
    assert found("launch.gpu_gib=23").grade == "ok"


def test_the_judge_key_is_checked_and_never_printed(monkeypatch, capsys) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refused = Fault(401, f'{{"error": {{"message": "wrong key {KEY}"}}}}'.encode())
    with judge_stub(lambda *_: refused) as stub, pytest.raises(SystemExit):
        doctor.doctor(["table=paper", f"judge.endpoint.base_url={stub.url}"])
    output = capsys.readouterr().out
    assert stub.authorizations == [f"Bearer {KEY}"] and "wrong key [key]" in output
    assert "OPENAI_API_KEY is set" in output and KEY not in output
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in output.splitlines())
    assert all(": " in line for line in output.splitlines() if line.startswith(("fail", "warn"))), "a remedy each"


def test_a_table_does_not_start_for_a_judge_that_gives_no_verdict(monkeypatch) -> None:
    """Before anything is trained, one call tells; a judge on this machine may be started later, and only warns."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def asked(url: str, *overrides: str) -> tuple[list[str], list[doctor.Finding]]:
        plan = planned(["rows=sft", "judge=openai", f"judge.endpoint.base_url={url}", *overrides])
        return doctor.blocking(plan), list(doctor._judge(plan.first))

    with judge_stub(lambda *_: completion("[[A>B]]", {"m": -0.1})) as stub:
        stopping, findings = asked(stub.url)
    assert stopping == [] and [found.grade for found in findings] == ["ok", "ok"]
    assert findings[0].message == "gpt-4.1-2025-04-14 gives verdicts under AlpacaEval 2.0"
    gone = Fault(404, b'{"error": {"message": "The model has been deprecated"}}')
    with judge_stub(lambda *_: gone) as stub:
        stopping, findings = asked(stub.url)
        assert len(stub.requests) == 2, "one call each time"
    assert len(stopping) == 1 and "has been deprecated" in stopping[0] and findings[0].grade == "fail"
    stopping, findings = asked(stub.url)
    assert stopping == [] and findings[0].grade == "warn" and "no connection" in findings[0].message
    stopping, findings = asked("http://judge.invalid/v1", "judge.endpoint.timeout_seconds=0.2")
    assert [found.grade for found in findings] == ["warn", "fail"] and len(stopping) == 1
    assert "the judge's key is sent unencrypted to judge.invalid" in findings[0].message


def test_gated_hidden_and_unreachable_models_are_reported_with_their_remedies(monkeypatch) -> None:
    """The paper's two models on a stand-in hub; with a token, the remedy for a gated model is another one."""
    plan = planned(["table=paper"])
    answer = httpx2.Response(403, request=httpx2.Request("GET", "https://hub.example"))

    def findings(error: Exception | None, token: str | None = None) -> list[tuple[str, str, str]]:
        class Hub:
            def model_info(self, path: str, revision: str | None, timeout: float) -> None:
                if error:
                    raise error

            def auth_check(self, path: str) -> None: ...

        monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
        return [(found.grade, found.what, found.message) for found in doctor._hub(plan)]

    assert [found[:2] for found in findings(None)] == [("ok", "hub")] * 2
    gated = GatedRepoError("not yours", response=answer)
    for token, remedy in ((None, "after `hf auth login`"), ("a token", "with another account")):
        assert all(
            grade == "fail" and what == "licence" and text.endswith(remedy)
            for grade, what, text in findings(gated, token)
        )
    hidden = findings(RepositoryNotFoundError("no such thing", response=answer))
    assert all(found[:2] == ("fail", "hub") and "does not exist or is private" in found[2] for found in hidden)
    away = findings(OSError("no route to the hub"))
    assert all(found[:2] == ("warn", "hub") and "(no route to the hub): set HF_ENDPOINT" in found[2] for found in away)


def test_a_folder_is_not_asked_of_the_hub_and_a_mistyped_one_is_named(tmp_path: Path) -> None:
    def findings(path: object) -> list[doctor.Finding]:
        config = SimpleNamespace(model=SimpleNamespace(path=str(path), revision=None))
        return list(doctor._hub(SimpleNamespace(configs={"a row": config})))

    assert [found.message for found in findings(tmp_path)] == ["nothing to download"]
    (wrong,) = findings(tmp_path / "no" / "such" / "folder")
    assert wrong.grade == "fail" and "does not exist or is private: correct model.path" in wrong.message


def test_wrong_versions_a_skewed_clock_and_a_full_disk_are_reported(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1")
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 30))
    found = grades(f"runs={tmp_path}")
    assert found["versions"] == found["clock"] == found["disk"] == "warn"


def test_missing_slurm_commands_are_a_failure(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert grades("cluster=slurm_cpu")["slurm"] == "fail"


def test_what_a_container_brings_is_not_looked_for_on_the_login_node(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "_slurm", lambda: doctor.Finding("ok", "slurm", "not asked"))
    paper = ["table=paper", "rows=dpo", "settings=base", "cluster=slurm"]
    assert grades(*paper)["vllm"] == "fail"
    for container in ("[apptainer,exec,--nv,image.sif]", "['--container-image=image.sqsh']"):
        inside = grades(*paper, f"cluster.container={container}")
        assert not {"vllm", "checkers"} & inside.keys() and inside["versions"] == "ok"


def test_status_reports_each_state_of_a_stage(tmp_path: Path) -> None:
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
