"""Fixtures that several files share."""

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from focalpo.scoring import stats
from focalpo.stages.folder import Folder
from recipes import report
from tests.sealed_table import planned, sealed_stages
from tests.slurm_cluster import PROGRAMS, jobs, slurm, slurm_cluster, wait_until

# What a launcher sets. Libraries set it in this process too (accelerate: RANK), and later programs would obey it.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# A shell ignores Ctrl-C for what it runs in the background, and so would every program that a test stops.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def environment_left_as_found():
    """Leave to the next test nothing that this one set, nor what a module's fixture let a library set before it."""
    for name in LAUNCHER:
        os.environ.pop(name, None)
    found = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(found)


SEPARATE = {"slow", "browser", "slurm", "latex", "vllm"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a mark that its file does not spell out: `make` collects the files in which it finds the mark's name."""
    texts = {item.path: item.path.read_text() for item in items}
    for item in items:
        for name in SEPARATE.intersection(mark.name for mark in item.iter_markers()):
            if f"mark.{name}" not in texts[item.path]:
                raise pytest.UsageError(f"{item.nodeid} is marked {name}; write pytest.mark.{name} in its file")


@pytest.fixture(scope="session")
def sealed_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sealed report of a small table: two seeds of SFT, DPO and FocalPO in the base setting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("focalpo.stages.folder.commit", lambda: "c0ffee" * 6 + "c0ff")  # whatever this checkout holds
        folder = sealed_stages(tmp_path_factory.mktemp("table") / "runs", planned())
        return made(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout that may not be shipped with it."""
    path = Path(os.environ.get("FOCALPO_SHARED_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"published annotations may not be shipped (CC-BY-NC) and are not at {path}")
    return path


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that records its arguments, NUL-separated, and prints a job id; an empty queue."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    calls = tmp_path / "calls"
    calls.mkdir()
    for name, text in {
        "sbatch": f'n=$(ls {calls} | wc -l); printf "%s\\0" "$@" > {calls}/$(printf %03d $n); echo $((100 + n))',
        "squeue": "true",
        "scontrol": "true",
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    }.items():
        (bin_folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (bin_folder / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    return calls


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a real Slurm that is up."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"{missing} are not installed: make test-slurm does that"
    assert os.geteuid() == 0, "slurmd of this test requires root, as in CI"
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    with slurm_cluster(folder):
        yield folder


@pytest.fixture
def cluster(running_cluster: Path):
    """The folder of a real Slurm without jobs of another test."""
    yield running_cluster
    slurm("scancel", "--me")
    wait_until(lambda: not jobs())


def made(folder: Folder) -> Path:
    """Make and seal a report, with bootstraps of 200 rounds: intervals must be there, their width does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "ROUNDS", 200)
        _forget()
        with folder.being_made() as job:
            folder.seal(1.0, report.make(job))
    _forget()
    return folder.path


def _forget() -> None:
    stats.prompt_weights.cache_clear()
    stats._seed_weights.cache_clear()
