"""A table on a real Slurm: submitted, requeued, with a lost node, and equal to the table of a local run."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.slurm_cluster import PROGRAMS, repair_node, slurm, slurm_cluster, stop_node, wait_until

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parent.parent
SMALL = [
    "rows=sft,dpo,focalpo",
    "seeds=1",
    "model.phases.pretraining.count=640",
    "model.phases.pretraining.train.max_steps=20",
    "model.phases.sft.count=640",
    "data.prompts=400",
    "train.max_steps=6",
    "dynamics.train_pairs=50",
]


def command(verb: str, runs: Path, *more: str) -> str:
    given = {word.partition("=")[0]: word for word in (*SMALL, *more)}  # a word may be given once
    result = subprocess.run(
        [sys.executable, "-m", f"recipes.{verb}", f"runs='{runs}'", *given.values()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert not result.returncode, result.stdout + result.stderr
    return result.stdout


def table_of(runs: Path) -> list[dict[str, str]]:
    (path,) = runs.glob("report/*/table1.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"{missing} are not installed: apt-get install slurm-wlm munge, as make test-slurm does"
    assert os.geteuid() == 0, "slurmd of this test requires root, as in CI"
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    with slurm_cluster(folder):
        yield folder


def jobs() -> list[list[str]]:
    """Id, state, name, node and submission time of every task of ours."""
    lines = slurm("squeue", "--me", "--array", "--noheader", "--format=%i|%T|%j|%N|%V").splitlines()
    return [line.split("|") for line in lines]


def start_requeued_jobs() -> None:
    """Start requeued jobs after a few seconds, where Slurm would wait two minutes. They cannot start at once: a node
    still remembers that the last start was revoked."""
    for job, state, *_, submitted in jobs():
        if state == "PENDING" and (datetime.now() - datetime.fromisoformat(submitted)).seconds > 4:
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)


def test_a_table_survives_a_requeue_and_a_lost_node_and_equals_the_local_one(cluster: Path, tmp_path: Path) -> None:
    local, runs = tmp_path / "local", tmp_path / "on slurm $(touch broken) 50%a"
    output = command("reproduce", runs, "cluster=slurm_cpu", "cluster.stages.train.gpus=1")
    assert "23 stages submitted" in output and "aftercorr" in output
    assert "queued" in command("status", runs, "cluster=slurm_cpu")
    again = command("reproduce", runs, "cluster=slurm_cpu")
    assert "nothing to submit" in again
    requeued = lost = False
    deadline = time.monotonic() + 900
    while jobs() and time.monotonic() < deadline:
        start_requeued_jobs()
        running = [job for job in jobs() if job[1] == "RUNNING"]
        if not requeued and any(job[2].startswith("train-") for job in running):
            (train, *_) = [job for job in running if job[2].startswith("train-")]
            # Slurm refuses when the job has just ended; then the loop requeues another one.
            requeued = not subprocess.run(["scontrol", "requeue", train[0]], capture_output=True).returncode
        elif requeued and not lost and any(job[2].startswith(("generate-", "judge-")) for job in running):
            node = next(job[3] for job in running if job[2].startswith(("generate-", "judge-")))
            stop_node(cluster, node)
            lost = True
            assert "State=DOWN" in slurm("scontrol", "show", "node", node)
        time.sleep(0.5)
    assert requeued and lost
    # Not earlier: a node that is back at once takes the end of its old jobs for the end of the same jobs restarted.
    repair_node(node)
    assert "23 of 23 stages are sealed" in command("status", runs, "cluster=slurm_cpu")
    command("reproduce", local)
    assert table_of(runs) == table_of(local)
    assert not (ROOT / "broken").exists()


LONG = [
    "rows=dpo",
    "settings=base",
    "cluster=slurm_cpu",
    "data.prompts=3000",
    "train.global_batch=8",
    "train.epochs=99",
]


def test_training_at_its_time_limit_saves_requeues_and_is_sealed(cluster: Path, tmp_path: Path) -> None:
    """Two ranks on two nodes. Once there are steps to save, a limit of five minutes: Slurm signals at its check."""
    ranks = ["launch.ranks=2", "train.zero_stage=3", "train.max_steps=800"]
    command("reproduce", tmp_path, *LONG, *ranks, "cluster.stages.train={nodes:2,gpus:0,cpus:1,memory:4G,minutes:60}")

    wait_until(lambda: [job for job in jobs() if job[1] == "RUNNING" and job[2].startswith("train-")], 200)
    (train,) = [job[0] for job in jobs() if job[2].startswith("train-")]
    wait_until(lambda: list(tmp_path.glob("train/base-dpo*/progress.json")), 200)
    slurm("scontrol", "update", f"JobId={train}", "TimeLimit=5")
    wait_until(lambda: [job for job in jobs() if job[0] == train and job[1] == "PENDING"], 200)
    slurm("scontrol", "update", f"JobId={train}", "TimeLimit=60")

    def sealed() -> list[Path]:
        start_requeued_jobs()
        return list(tmp_path.glob("train/base-dpo*/manifest.json"))

    wait_until(sealed, 400)
    assert json.loads(sealed()[0].read_text())["starts"] == 2
    logs = "".join(path.read_text() for path in (tmp_path / ".slurm").glob("train-*.log"))
    assert "on n[1-2], start 1" in logs and "on n[1-2], start 2" in logs
    assert "back to the queue" in logs and "asked to stop; saved after step" in logs
    slurm("scancel", "--me")
    wait_until(lambda: not jobs(), 60)


def test_a_failed_row_leaves_a_table_of_the_others_and_is_submitted_again_alone(
    cluster: Path, tmp_path: Path, monkeypatch
) -> None:
    """At a site that exports nothing into jobs."""
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    more = [*LONG, "rows=sft,dpo", "train.max_steps=600"]
    command("reproduce", tmp_path, *more)
    wait_until(lambda: list(tmp_path.glob("train/base-dpo*/progress.json")), 400)
    (training,) = tmp_path.glob("train/base-dpo*")
    subprocess.run(["pkill", "-KILL", "-f", f"focalpo.running.worker {training}"], check=True)
    wait_until(lambda: not jobs(), 200)
    output = command("status", tmp_path, *more)
    assert f"train/{training.name}: train ended with code 137, see the end of {tmp_path}/.slurm/train-" in output
    (partial,) = tmp_path.glob("report/*/table1.txt")
    assert f"{partial.parent} has the others, these failed: base/dpo/1; make status says why" in output
    rows = {
        line.split()[0]: line for line in partial.read_text().splitlines() if line.split()[:1] in (["SFT"], ["DPO"])
    }
    assert rows["DPO"].count(" -") > 1 and any(sign.isdigit() for sign in rows["SFT"])
    assert "4 stages submitted" in command("reproduce", tmp_path, *more)  # train, generate, judge, and the report
    wait_until(lambda: not jobs(), 400)
    output = command("status", tmp_path, *more)
    assert re.search(r"^(\d+) of \1 stages are sealed$", output, re.MULTILINE), output


def test_cancel_removes_only_the_jobs_of_the_table_and_for_good(cluster: Path, tmp_path: Path) -> None:
    """A running training saves and is not requeued."""
    other = slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 300")
    long = [*LONG, "train.max_steps=9999"]
    command("reproduce", tmp_path, *long)
    wait_until(lambda: list(tmp_path.glob("train/base-dpo*/progress.json")), 400)
    assert "jobs cancelled" in command("cancel", tmp_path, *long)
    wait_until(lambda: [job[0] for job in jobs()] == [other], 60)
    assert list(tmp_path.glob("train/base-dpo*/.checkpoints/step-*/complete"))
    time.sleep(5)  # a requeued job would appear at Slurm's next check
    assert [job[0] for job in jobs()] == [other]
    slurm("scancel", other)
