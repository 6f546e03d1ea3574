"""What sites differ in, on a real Slurm: names of partitions and QoS, containers, export policies, and limits."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from focalpo.running.slurm import queue
from focalpo.stages.folder import Folder
from focalpo.stages.origin import ROOT
from tests.slurm_accounting import sacctmgr
from tests.slurm_cluster import jobs, slurm, start_requeued_jobs, wait_until

pytestmark = pytest.mark.slurm
KEY = "THE_JUDGES_KEY"
LOGIN = ("hydra", "omegaconf", "antlr4", "yaml", "packaging", "filelock")
"""What reads a configuration and holds a lock: all that a login node must have where jobs run in a container."""
# Records the environment and arguments of a job; then runs the kinds of stage that the image is named after, in our
# environment. The image `stuck` does nothing until it is asked to stop.
APPTAINER = """#!/usr/bin/env bash
image=$2 command=("${@:3}")
stage=${command[-3]}
kind=$(basename "$(dirname "$stage")")
ARGUMENTS="${command[*]: -2}" env -0 > "RECORDS/$kind+$(basename "$stage")"
if [[ $image == stuck ]]; then
    rm -f "$stage/.checkpoints/stop"
    until [[ -e $stage/.checkpoints/stop ]]; do sleep 0.2; done
    exit 75
fi
[[ +$image+ != *+$kind+* ]] || PATH=PYTHON:$PATH exec "${command[@]}"
"""
# A site's modules may leave the variables of a launcher behind.
SETUP = """
PATH=BIN:$PATH
[[ $SLURM_JOB_NAME != judge-* ]] || export WORLD_SIZE=2
"""


class Site:
    """A login node whose Python can import nothing that stages need, and the container that brings it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.records, self.runs = folder, folder / "records", folder / "runs"
        self.python = folder / "login" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "login"], check=True)
        (packages,) = folder.glob("login/lib/*/site-packages")
        for name in LOGIN:
            spec = find_spec(name)
            assert spec and spec.origin
            (packages / name).symlink_to(Path(spec.origin).parent)
        for name in ("records", "bin"):
            (folder / name).mkdir()
        places = {"RECORDS": self.records, "PYTHON": Path(sys.executable).parent, "BIN": folder / "bin"}
        for path, text in ((folder / "bin" / "apptainer", APPTAINER), (folder / "setup.sh", SETUP)):
            for word, place in places.items():
                text = text.replace(word, str(place))
            path.write_text(text)
            path.chmod(0o755)

    def run(self, recipe: str, image: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a command on the login node, with little more in its environment than what is given."""
        sbatch = shutil.which("sbatch")
        assert sbatch
        own = {"PATH": f"{Path(sbatch).parent}:/usr/bin:/bin", "HOME": "/", "SLURM_CONF": os.environ["SLURM_CONF"]}
        site = [f"cluster.setup={self.folder}/setup.sh", f"cluster.container=[apptainer,exec,{image}]"]
        return subprocess.run(
            [self.python, "-m", f"recipes.{recipe}", "cluster=slurm_cpu", f"runs={self.runs}", *site, *words],
            cwd=ROOT,
            env=own | environment,
            capture_output=True,
            text=True,
        )

    def submit(self, recipe: str, image: str, *words: str, **environment: str) -> str:
        result = self.run(recipe, image, *words, **environment)
        assert not result.returncode, result.stdout + result.stderr
        return result.stdout

    def seen(self) -> dict[str, list[dict[str, str]]]:
        """The environment of each job, by kind."""
        found: dict[str, list[dict[str, str]]] = {}
        for path in self.records.iterdir():
            lines = [line.partition("=") for line in path.read_text().split("\0")]
            found.setdefault(path.name.partition("+")[0], []).append({name: value for name, _, value in lines})
        return found

    def folder_of(self, kind: str) -> Path:
        (path,) = self.runs.glob(f"{kind}/*")
        return path


@pytest.fixture
def site(cluster: Path, tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_login_node_without_packages_submits_each_kind_to_where_its_names_say(site: Site) -> None:
    """A site that exports nothing: training has what it names, generation all but the judge's key, the judge that."""
    with_key = {"SBATCH_EXPORT": "NONE", KEY: "secret", "MINE": "1", "OTHER": "1"}
    names = ["account=lab", "partition=long", "qos=urgent", "constraint=old", "sbatch=['--distribution=cyclic']"]
    names += ["stages.train.partition=short", "stages.train.qos=normal", "stages.train.constraint=new"]
    names += ["stages.train.cpus=2", "stages.train.sbatch=['--export=MINE']"]
    names += ["stages.generate.sbatch=['--export=ALL']"]
    words = [*(f"cluster.{name}" for name in names), f"judge.endpoint.api_key_env={KEY}"]
    wrong = site.run("judge", "benchmark", *words, "cluster.scheduler=slrum", **with_key)
    assert wrong.returncode == 2 and "cluster.scheduler='slrum' is not one of local, slurm" in wrong.stderr
    output = site.submit("judge", "benchmark+judge", *words, **with_key)
    assert "9 stages submitted; squeue --me shows them" in output
    wait_until(lambda: not jobs())
    seen = site.seen()
    assert seen.keys() == {"sft", "pairs", "reference", "train", "benchmark", "generate", "judge"}
    read = ("SLURM_JOB_PARTITION", "SLURM_JOB_QOS", "SLURMD_NODENAME", "OMP_NUM_THREADS", "ARGUMENTS")
    for kind, job in ((kind, job) for kind, found in seen.items() for job in found):
        other = ("short", "normal", "n2", "2", "--ranks=1 --threads=2")
        expected = other if kind == "train" else ("long", "urgent", "n1", "1", "--ranks=1 --threads=1")
        assert tuple(job[name] for name in read) == expected
        assert (job["SLURM_JOB_ACCOUNT"], job["SLURM_DISTRIBUTION"]) == ("lab", "cyclic")
        exported = {"train": ["MINE"], "generate": ["MINE", "OTHER"], "judge": [KEY]}.get(kind, [])
        assert [name for name in ("MINE", "OTHER", KEY) if name in job] == exported
    assert len(list(site.runs.glob("benchmark/*/manifest.json"))) == 2, "made in the container"
    failed = "1 ranks were asked for and 2 started (WORLD_SIZE); check the launcher, then submit it again\n"
    assert (site.folder_of("judge") / "error.txt").read_text() == failed


SEARCH = ["rows=focalpo", "settings=base", "objective.gamma=0,0.05,0.1", "train.learning_rate=3e-4,6e-4"]
SEARCH += ["objective.beta=0.3", "seed=1"]


def test_a_search_is_submitted_in_parts_that_the_sites_limits_allow_and_runs_in_order(site: Site) -> None:
    """6 trainings and the answers of their models, 4 to an array. A QoS that does not exist, then one with room for 5
    jobs, then an account with room for 10: each submission goes on where the one before ended."""
    words = [*SEARCH, "cluster.sbatch=[--hold]", "cluster.stages.sweep.cpus=2"]
    urgent = [*words, "cluster.stages.train.qos=urgent"]
    broken = site.run("sweep", "none", *words, "cluster.stages.train.qos=urgnt")
    assert broken.returncode == 1 and "Invalid qos specification; 4 of 9 arrays were submitted before" in broken.stderr
    first = [job[0].partition("_")[0] for job in jobs()]
    assert f"cancel them by scancel {' '.join(sorted(first, key=int))}, or run the same command again" in broken.stderr
    sacctmgr("modify", "qos", "urgent", "set", "MaxSubmitJobsPerUser=5")
    output = site.submit("sweep", "none", *urgent)
    assert "train x 4" in output and "train x 1" in output
    assert "5 of 13 stages submitted, MaxSubmitJobs has no room for more; run again for the others" in output
    sacctmgr("modify", "qos", "urgent", "set", "MaxSubmitJobsPerUser=-1")
    sacctmgr("modify", "user", "root", "where", "account=root", "set", "MaxSubmitJobs=10")
    assert "1 of 8 stages submitted, MaxSubmitJobs has no room" in site.submit("sweep", "none", *urgent)
    sacctmgr("modify", "user", "root", "where", "account=root", "set", "MaxSubmitJobs=-1")
    assert "7 stages submitted; squeue" in site.submit("sweep", "none", *urgent)
    assert "nothing to submit: 0 stages are sealed, 17 are queued" in site.submit("sweep", "none", *urgent)
    held = [job[0] for job in jobs()]
    assert len(held) == 17 and all(int(job.partition("_")[2]) < 4 for job in held)
    (sweep,) = [job[0] for job in jobs() if job[2].startswith("sweep-")]
    slurm("scontrol", "update", f"JobId={sweep}", "CpusPerTask=1")
    slurm("scontrol", "release", *dict.fromkeys(job.partition("_")[0] for job in held))
    wait_until(lambda: not jobs())
    started = {path.name.replace("+", "/"): path.stat().st_mtime_ns for path in site.records.iterdir()}
    assert len(started) == 16
    for title, when in started.items():
        inputs = Folder.at(site.runs / title).job.inputs.values()
        assert all(started[f"{path.parent.name}/{path.name}"] < when for path in inputs)
    got = "cluster.stages.sweep.cpus=2 was asked for and the job got 1; change one, then submit it again\n"
    assert (site.folder_of("sweep") / "error.txt").read_text() == got


def test_jobs_that_get_nowhere_end(site: Site) -> None:
    """One comes to its time limit with nothing saved, another is requeued four times; what waits for them ends too."""
    site.submit("pairs", "stuck", "cluster.stages.sft.minutes=5")
    (limited,) = site.runs.glob("sft/pocket-pretraining-*")
    site.submit("pairs", "stuck", "model.phases.pretraining.count=64")
    (requeued,) = set(site.runs.glob("sft/pocket-pretraining-*")) - {limited}
    (job,) = [task.job for task in queue(site.runs) if task.folder == requeued]

    def at_start(number: int) -> bool:
        start_requeued_jobs()
        starts = requeued / ".starts"
        return starts.exists() and len(starts.read_text().splitlines()) == number

    for number in range(1, 5):
        wait_until(lambda number=number: at_start(number))
        slurm("scontrol", "requeue", job)
    wait_until(lambda: start_requeued_jobs() or not jobs())
    said = (requeued / "error.txt").read_text()
    assert said.startswith("sft was requeued four times and has nothing new to show; see the end of ")
    expected = "the time limit was near and sft had made no progress; raise cluster.stages.sft.minutes\n"
    assert (limited / "error.txt").read_text() == expected
    assert len(list(site.runs.glob("*/*/error.txt"))) == 2
