"""The bash of slurm/: what a job compares, when it goes back to the queue, and how ranks find each other."""

import importlib
import inspect
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from focalpo.running.worker import arguments, check_world
from focalpo.stages.code import recipe_of
from focalpo.stages.origin import ROOT

JOB = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "5", "SLURM_JOB_ID": "6", "SLURM_JOB_NUM_NODES": "1"}
JOB |= {"SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_NODELIST": "n[1-2]"}
TOLD = ("--ranks=1", "--threads=8", "--cpus=8", "--gpus=0")


def task(folder: Path, kind: str) -> Path:
    """The file with one stage folder of this kind."""
    stage = folder / "runs" / kind / "x-0123456789ab"
    stage.mkdir(parents=True, exist_ok=True)
    tasks = folder / "tasks"
    tasks.write_text(f"{stage}\n")
    return tasks


def stage_of(tasks: Path) -> Path:
    return Path(tasks.read_text().strip())


def job(tasks: Path, *command: str, told: tuple[str, ...] = TOLD, **environment: str) -> subprocess.CompletedProcess:
    """Run the template of the task's kind with a container that is this command."""
    kind = stage_of(tasks).parent.name
    template = {"sft": "train", "generate": "generate", "judge": "judge"}.get(kind, "train")
    return subprocess.run(
        ["bash", f"slurm/{template}.sbatch", *told, str(tasks), "", *command],
        cwd=ROOT,
        env=os.environ | JOB | environment,
        capture_output=True,
        text=True,
    )


def test_the_worker_is_told_its_ranks_and_threads(fake_slurm: Path, tmp_path: Path) -> None:
    tasks = task(tmp_path, "judge")
    result = job(tasks, "bash", "-c", 'echo "$OMP_NUM_THREADS $SLURM_EXPORT_ENV $*"', OMP_NUM_THREADS="99")
    assert result.stdout.splitlines()[-1] == (
        f"8 ALL -m focalpo.running.worker {stage_of(tasks)} --ranks=1 --threads=8"
    ), "not the threads of whoever submitted it"


def test_python_is_found_without_an_exported_path_and_a_site_may_choose_another(
    fake_slurm: Path, tmp_path: Path
) -> None:
    tasks = task(tmp_path, "judge")
    result = job(tasks, "bash", "-c", "echo $PATH", told=(f"--path={tmp_path}", *TOLD))
    assert result.stdout.splitlines()[-1].startswith(f"{tmp_path}:")


@pytest.mark.parametrize(
    ("told", "got", "said"),
    [
        (TOLD, {"SLURM_CPUS_PER_TASK": "4"}, "cluster.stages.train.cpus=8 was asked for and the job got 4"),
        (TOLD, {"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "2"}, "cpus=8 was asked for and the job got 2"),
        (("--gpus=4",), {"CUDA_VISIBLE_DEVICES": "0,1"}, "train.gpus=4 was asked for and the job got 2"),
        (("--gpus=1",), {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "gpus=1 was asked for and the job got 0"),
        (("--gpus=2",), {"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "1"}, "gpus=2 was asked for and"),
        (("--ranks=3",), {"SLURM_JOB_NUM_NODES": "2"}, "3 ranks cannot be divided among the 2 nodes"),
        (("--rank=3",), {}, "unknown argument --rank=3"),
    ],
)  # fmt: skip
def test_a_job_that_got_less_than_was_asked_for_ends_with_one_line(
    fake_slurm: Path, tmp_path: Path, told: tuple[str, ...], got: dict[str, str], said: str
) -> None:
    tasks = task(tmp_path, "train")
    result = job(tasks, "touch", str(tmp_path / "started"), told=told, **got)
    assert result.returncode and not (tmp_path / "started").exists()
    assert len(result.stderr.splitlines()) == 1 and said in result.stderr
    if "unknown" not in said:
        assert said in (stage_of(tasks) / "error.txt").read_text()


@pytest.mark.parametrize("got", [{}, {"SLURM_CPUS_PER_TASK": "16"}, {"CUDA_VISIBLE_DEVICES": "0,1,2"}])
def test_a_job_that_got_what_was_asked_for_starts(fake_slurm: Path, tmp_path: Path, got: dict[str, str]) -> None:
    gpus = len(got.get("CUDA_VISIBLE_DEVICES", "").split(",")) - 1
    assert job(task(tmp_path, "train"), "true", told=(*TOLD, f"--gpus={gpus}"), **got).returncode == 0


def test_the_first_node_is_the_host_of_the_ranks(fake_slurm: Path, tmp_path: Path) -> None:
    """On both nodes by the same words: only its number in the job tells a node what it is."""
    bin_folder = fake_slurm.parent / "bin"
    (bin_folder / "scontrol").write_text(
        "#!/usr/bin/env bash\n"
        '[[ $2 == hostnames ]] && printf "n1\\nn2\\n" || echo "NodeAddr=$3.example NodeHostName=x"\n'
    )
    (bin_folder / "torchrun").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (bin_folder / "torchrun").chmod(0o755)
    for node, host in (("0", "1"), ("1", "0")):
        told = ("--ranks=4", "--threads=4", "--cpus=8")
        result = job(task(tmp_path, "train"), "env", told=told, SLURM_JOB_NUM_NODES="2", SLURM_NODEID=node)
        words = result.stdout.splitlines()[1:]
        assert f"--rdzv-conf=is_host={host}" in words and "--rdzv-endpoint=n1.example:10006" in words, result.stderr
        assert "--nnodes=2" in words and "--nproc-per-node=2" in words
        assert words[-2:] == ["--ranks=4", "--threads=4"]


def near_the_limit(fake_slurm: Path, tasks: Path, work: str) -> tuple[int, str]:
    """Send USR1 to a job whose command does some work and then stops as if asked to; its code, and the requeues."""
    asked = fake_slurm.parent / "requeues"
    asked.unlink(missing_ok=True)
    (fake_slurm.parent / "bin" / "squeue").write_text("#!/usr/bin/env bash\necho RUNNING\n")
    (fake_slurm.parent / "bin" / "scontrol").write_text(
        f'#!/usr/bin/env bash\necho "$*" >> {asked}; kill -KILL $PPID\n'
    )
    kind = stage_of(tasks).parent.name
    process = subprocess.Popen(
        ["bash", f"slurm/{'judge' if kind == 'judge' else 'train'}.sbatch", *TOLD, str(tasks), ""]
        + ["bash", "-c", f"cd '{stage_of(tasks)}'; touch running; sleep 0.5; {work}; exit 75"],
        cwd=ROOT,
        env=os.environ | JOB,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not (stage_of(tasks) / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    code = process.wait(timeout=30)
    (stage_of(tasks) / "running").unlink()
    return code, asked.read_text() if asked.exists() else ""


REPLY = '{"id": "%d", "outcome": "good", "request": {}, "reply": {}}'


@pytest.mark.parametrize(
    ("kind", "before", "work"),
    [
        ("train", [], "mkdir -p .checkpoints/step-000004; touch .checkpoints/step-000004/complete"),
        ("sft", ["step-000004"], "mkdir -p .checkpoints/step-000012; touch .checkpoints/step-000012/complete"),
        ("judge", [], f"echo '{REPLY % 2}' >> records.jsonl"),
        ("sample", [], "mkdir .checkpoints; touch .checkpoints/samples-000000.parquet"),
        ("generate", [], "mkdir -p .checkpoints; touch .checkpoints/{b-000000,a-000000}.parquet"),
        ("held_out", [], "mkdir -p .checkpoints; touch .checkpoints/answers-000000.parquet"),
        ("duel", [], f"echo '{REPLY % 2}' >> records.jsonl"),
        ("capability", [], "touch mmlu.json"),
    ],
)
def test_a_job_with_progress_goes_back_to_the_queue(
    fake_slurm: Path, tmp_path: Path, kind: str, before: list[str], work: str
) -> None:
    tasks = task(tmp_path, kind)
    for name in before:
        (stage_of(tasks) / ".checkpoints" / name).mkdir(parents=True)
        (stage_of(tasks) / ".checkpoints" / name / "complete").touch()
    _, requeues = near_the_limit(fake_slurm, tasks, work)
    assert requeues == "requeue 5_0\n" and not (stage_of(tasks) / "error.txt").exists()


@pytest.mark.parametrize(
    ("kind", "before", "work"),
    [
        ("train", [], "true"),
        ("train", [], "mkdir -p .checkpoints/step-000004; touch .checkpoints/step-000004/part-0"),
        ("sft", ["step-000004"], "touch .checkpoints/step-000004/complete"),
        ("judge", [], "true"),
        ("generate", [], "mkdir .checkpoints; touch .checkpoints/.greedy-000000.parquet"),
        ("judge", [], """echo '{"id": "2", "outcome": "HTTP 500", "request": {}, "reply": "x"}' >> records.jsonl"""),
    ],
)
def test_a_job_without_progress_since_its_start_fails_with_one_line(
    fake_slurm: Path, tmp_path: Path, kind: str, before: list[str], work: str
) -> None:
    """Nothing, a torn checkpoint, the same step again, a failed request: none brings the end nearer."""
    tasks = task(tmp_path, kind)
    for name in before:
        (stage_of(tasks) / ".checkpoints" / name).mkdir(parents=True)
        (stage_of(tasks) / ".checkpoints" / name / "complete").touch()
    code, requeues = near_the_limit(fake_slurm, tasks, work)
    assert code == 1 and not requeues
    expected = f"the time limit was near and {kind} had made no progress; raise cluster.stages.{kind}.minutes\n"
    assert (stage_of(tasks) / "error.txt").read_text() == expected


def test_what_a_template_calls_recorded_is_kept_by_its_recipe() -> None:
    """A kind that is stopped before its time limit must find its work again, or it would never end."""
    (kinds,) = re.findall(r"^records\(\) .*@\((.*)\)", (ROOT / "slurm/common.sh").read_text(), re.M)
    keeps = {"judge": "judge_tasks(", "duel": "judge_tasks(", "capability": "_complete("}
    for kind in kinds.split("|"):
        module, name = recipe_of(kind)
        assert keeps.get(kind, "Parts(") in inspect.getsource(getattr(importlib.import_module(module), name)), kind


def test_a_reason_of_the_stage_itself_is_kept(fake_slurm: Path, tmp_path: Path) -> None:
    tasks = task(tmp_path, "train")
    code, requeues = near_the_limit(fake_slurm, tasks, "echo the disk is full > error.txt")
    assert code == 75 and not requeues and (stage_of(tasks) / "error.txt").read_text() == "the disk is full\n"


def test_a_job_that_is_requeued_again_and_again_for_nothing_ends(fake_slurm: Path, tmp_path: Path) -> None:
    """By lost nodes or preemption; what another job of the stage did before does not count, and progress does."""
    tasks = task(tmp_path, "train")
    starts = [job(tasks, "false", SLURM_RESTART_COUNT=str(count)) for count in range(4)]
    assert all("requeued" not in start.stderr for start in starts)
    fifth = job(tasks, "touch", str(tmp_path / "started"), SLURM_RESTART_COUNT="4")
    assert fifth.returncode == 1 and not (tmp_path / "started").exists()
    assert "train was requeued four times and has nothing new to show" in (stage_of(tasks) / "error.txt").read_text()
    again = [job(tasks, "true", SLURM_ARRAY_JOB_ID="9", SLURM_RESTART_COUNT=str(count)) for count in range(4)]
    assert [start.returncode for start in again] == [0] * 4, "another job begins to count anew"
    saved = stage_of(tasks) / ".checkpoints" / "step-000001" / "complete"
    saved.parent.mkdir(parents=True)
    saved.touch()
    assert job(tasks, "true", SLURM_ARRAY_JOB_ID="9", SLURM_RESTART_COUNT="4").returncode == 0


def test_another_number_of_ranks_than_asked_for_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "stage.json").write_text("{}")
    assert arguments([str(tmp_path), "--ranks=4", "--threads=2"]) == (tmp_path, 4, 2)
    assert arguments([str(tmp_path)]) == (tmp_path, None, None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_world(tmp_path, 1)
    for started, asked in (("2", 4), ("8", 4), (None, 4), ("4", 1)):
        if started:
            monkeypatch.setenv("WORLD_SIZE", started)
        else:
            monkeypatch.delenv("WORLD_SIZE", raising=False)
        with pytest.raises(ValueError, match=rf"^{asked} ranks were asked for and {started or 1} started"):
            check_world(tmp_path, asked)
        assert "WORLD_SIZE" in (tmp_path / "error.txt").read_text()
        check_world(tmp_path, None)
