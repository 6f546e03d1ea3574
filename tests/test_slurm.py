"""A table on a real Slurm: submitted, requeued, with a lost node, and equal to the table of a local run."""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from focalpo.planning.table import planned
from focalpo.stages.folder import Folder, read_manifest
from tests.slurm_cluster import jobs, repair_node, slurm, start_requeued_jobs, stop_node, wait_until

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parent.parent
SMALL = [
    "rows=sft,dpo,focalpo",
    "settings=base",
    "seeds=1",
    "model.phases.pretraining.count=640",
    "model.phases.pretraining.train.max_steps=20",
    "model.phases.sft.count=640",
    "data.prompts=400",
    "train.max_steps=6",
    "dynamics.train_pairs=50",
]


def words(*more: str) -> list[str]:
    return list({word.partition("=")[0]: word for word in (*SMALL, *more)}.values())  # a word may be given once


def started(verb: str, runs: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"recipes.{verb}", f"runs='{runs}'", *words(*more)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def ended(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert not process.returncode, output
    return output


def command(verb: str, runs: Path, *more: str) -> str:
    return ended(started(verb, runs, *more))


def table_of(runs: Path) -> list[dict[str, str]]:
    (path,) = runs.glob("report/*/table1.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_table_survives_a_requeue_and_a_lost_node_and_equals_the_local_one(cluster: Path, tmp_path: Path) -> None:
    local, runs = tmp_path / "local", tmp_path / "on slurm $(touch broken) 50%a"
    here = started("reproduce", local)
    output = command("reproduce", runs, "cluster=slurm_cpu", "cluster.stages.train.gpus=1")
    assert "15 stages submitted" in output and "aftercorr" in output
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
    assert "15 of 15 stages are sealed" in command("status", runs, "cluster=slurm_cpu")
    ended(here)
    assert table_of(runs) == table_of(local)
    assert not (ROOT / "broken").exists()


LONG = [
    "rows=dpo",
    "cluster=slurm_cpu",
    "data.prompts=3000",
    "train.global_batch=8",
    "train.epochs=99",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all trainings of LONG: what they start from is made once."""
    return tmp_path_factory.mktemp("long") / "runs"


def training_of(runs: Path, *more: str) -> Path:
    """The folder of the training that these words ask for."""
    (stage,) = (row.train for row in planned(words(*more)).rows.values() if row.train is not None)
    return Folder(runs, stage).path


def test_training_at_its_time_limit_saves_requeues_and_is_sealed(cluster: Path, runs: Path) -> None:
    """Two ranks on two nodes. Once there are steps to save, a limit of five minutes: Slurm signals at its check."""
    more = [*LONG, "launch.ranks=2", "train.zero_stage=3", "train.max_steps=800"]
    command("reproduce", runs, *more, "cluster.stages.train={nodes:2,gpus:0,cpus:1,memory:4G,minutes:60}")
    training = training_of(runs, *more)

    wait_until(lambda: [job for job in jobs() if job[1] == "RUNNING" and job[2].startswith("train-")])
    (train,) = [job[0] for job in jobs() if job[2].startswith("train-")]
    wait_until((training / "progress.json").exists)
    slurm("scontrol", "update", f"JobId={train}", "TimeLimit=5")
    wait_until(lambda: [job for job in jobs() if job[0] == train and job[1] == "PENDING"])
    slurm("scontrol", "update", f"JobId={train}", "TimeLimit=60")

    def sealed() -> bool:
        start_requeued_jobs()
        return (training / "manifest.json").exists()

    wait_until(sealed)
    assert read_manifest(training)["starts"] == 2
    (log,) = (path.read_text() for path in (runs / ".slurm").glob("train-*.log"))
    assert "on n[1-2], start 1" in log and "on n[1-2], start 2" in log
    assert "back to the queue" in log and "asked to stop; saved after step" in log


def test_a_failed_row_leaves_a_table_of_the_others_and_is_submitted_again_alone(
    cluster: Path, runs: Path, monkeypatch
) -> None:
    """At a site that exports nothing into jobs."""
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    more = [*LONG, "rows=sft,dpo", "train.max_steps=600"]
    command("reproduce", runs, *more)
    training = training_of(runs, *more)
    wait_until((training / "progress.json").exists)
    subprocess.run(["pkill", "-KILL", "-f", f"focalpo.running.worker {training}"], check=True)
    wait_until(lambda: not jobs())
    output = command("status", runs, *more)
    assert f"train/{training.name}: train ended with code 137, see the end of {runs}/.slurm/train-" in output
    (partial,) = runs.glob("report/*/table1.txt")
    assert f"{partial.parent} has the others, these failed: base/dpo/1; make status says why" in output
    rows = {
        line.split()[0]: line for line in partial.read_text().splitlines() if line.split()[:1] in (["SFT"], ["DPO"])
    }
    assert rows["DPO"].count(" -") > 1 and any(sign.isdigit() for sign in rows["SFT"])
    assert "4 stages submitted" in command("reproduce", runs, *more)  # train, generate, judge, and the report
    wait_until(lambda: not jobs())
    output = command("status", runs, *more)
    assert re.search(r"^(\d+) of \1 stages are sealed$", output, re.MULTILINE), output


def test_cancel_removes_only_the_jobs_of_the_table_and_for_good(cluster: Path, runs: Path) -> None:
    """A running training saves and is not requeued."""
    other = slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 300")
    long = [*LONG, "train.max_steps=9999"]
    command("reproduce", runs, *long)
    training = training_of(runs, *long)
    wait_until((training / "progress.json").exists)
    assert "jobs cancelled" in command("cancel", runs, *long)
    wait_until(lambda: [job[0] for job in jobs()] == [other])
    assert list(training.glob(".checkpoints/step-*/complete"))
    time.sleep(5)  # a requeued job would appear at Slurm's next check
    assert [job[0] for job in jobs()] == [other]
