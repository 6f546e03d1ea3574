"""Worker processes: reused, replaced when they die, asked to stop, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.planning.stages import benchmark_stage, in_order, sft_stage
from focalpo.running.pool import Pool
from focalpo.stages.folder import Folder, Stage, read_manifest

ROOT = Path(__file__).parent.parent
# A program that runs a long training in a pool; its argument is the runs folder.
LONG_TRAINING = """
import sys
from pathlib import Path
from focalpo.running.pool import Pool
from tests.test_pool import long
if __name__ == "__main__":
    with Pool(2) as pool:
        pool.start(Path(sys.argv[1]), long())
        list(pool.finished(None))
"""


def quick(prompts: int) -> Stage:
    """A pocket benchmark, which takes almost no time."""
    stage = benchmark_stage(compose([]), "alpaca_eval")
    return replace(stage, settings=stage.settings | {"prompts": prompts})


def long() -> Stage:
    """A training that outlasts every test."""
    sft = sft_stage(compose(["model.phases.pretraining.train.max_steps=9999"]))
    assert sft
    return in_order([sft])[0]


def outcome(pool: Pool, stage: Stage) -> float | str:
    """The outcome of the stage, which must be the next to end."""
    ((finished, result),) = pool.finished(100)
    assert finished == stage
    return result


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_is_reused_and_replaced_when_it_died_idle(tmp_path: Path) -> None:
    with Pool(1) as pool:
        for prompts in (10, 20):
            pool.start(tmp_path, quick(prompts))
            assert outcome(pool, quick(prompts)) > 0
        (first,) = {worker.process.pid for worker in pool.workers}
        pool.workers[0].process.kill()
        pool.workers[0].process.join()
        pool.start(tmp_path, quick(30))
        assert outcome(pool, quick(30)) > 0
        assert [worker.process.pid for worker in pool.workers] != [first]
        started = pool.workers[0].process
    assert started.exitcode == 0
    assert all(Folder(tmp_path, quick(prompts)).sealed for prompts in (10, 20, 30))


def test_a_failed_stage_is_reported_and_its_worker_continues(tmp_path: Path) -> None:
    wrong = replace(quick(10), settings=quick(10).settings | {"protocol": "nowhere"})
    with Pool(1) as pool:
        pool.start(tmp_path, wrong)
        reason = outcome(pool, wrong)
        assert isinstance(reason, str) and "nowhere.yaml does not exist" in reason
        pool.start(tmp_path, quick(10))
        assert outcome(pool, quick(10)) > 0


@pytest.mark.parametrize("workers, threads", [(1, 2), (2, 1)])
def test_a_stage_computes_with_its_own_threads_whatever_the_number_of_workers(
    tmp_path: Path, workers: int, threads: int
) -> None:
    stage = replace(quick(10), settings=quick(10).settings | {"threads": threads})
    with Pool(workers) as pool:
        pool.start(tmp_path, stage)
        assert outcome(pool, stage) > 0
    manifest = read_manifest(Folder(tmp_path, stage).path)
    assert manifest["threads"] == threads
    assert manifest["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert manifest["python"] and manifest["hardware"]["cpu"]


def test_a_stage_that_another_process_makes_is_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, printed = Folder(tmp_path, quick(10)), []

    def told() -> int:
        printed.append(capfd.readouterr().err)
        return "".join(printed).count(f"waiting for {folder.path}, which another process is making")

    with Pool(1) as pool:
        with folder.being_made():
            pool.start(tmp_path, quick(10))
            until(told)
            assert list(pool.finished(1)) == []
            (folder.path / "made.txt").write_text("by the other process")
            folder.seal(1.0)
        assert outcome(pool, quick(10)) == 0.0, "what the other made is used"
    assert told() == 1


@pytest.mark.slow
def test_a_killed_worker_fails_only_its_own_stage(tmp_path: Path) -> None:
    progress = Folder(tmp_path, long()).path / "progress.json"
    with Pool(2) as pool:
        pool.start(tmp_path, long())
        until(progress.exists)
        pool.start(tmp_path, quick(10))
        assert outcome(pool, quick(10)) > 0
        training, _ = pool.workers
        training.process.kill()
        assert outcome(pool, long()) == "its worker was killed (out of memory?); lower launch.workers and run again"
        pool.start(tmp_path, quick(20))
        assert outcome(pool, quick(20)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_makes_the_pool_save_its_training(tmp_path: Path, ranks: int) -> None:
    """In the worker itself, or in ranks that it started."""
    stage = replace(long(), launch=long().launch | {"ranks": ranks})
    folder = Folder(tmp_path, stage).path
    with pytest.raises(RuntimeError, match="our own"), Pool(1) as pool:
        pool.start(tmp_path, stage)
        until((folder / "progress.json").exists)
        assert not list((folder / ".checkpoints").glob("step-*"))
        raise RuntimeError("our own")
    assert list((folder / ".checkpoints").glob("step-*/complete"))
    assert not pool.stages and not [worker for worker in pool.workers if worker.process.is_alive()]


def test_a_worker_that_does_not_handle_the_signal_is_killed(tmp_path: Path) -> None:
    """A stopped process handles no signal, like one in a long matrix product; it has not taken a step yet."""
    with pytest.raises(KeyboardInterrupt), Pool(1) as pool:
        pool.start(tmp_path, long())
        process = pool.workers[0].process
        until((Folder(tmp_path, long()).path / "stage.json").exists)
        os.kill(process.pid, signal.SIGSTOP)
        raise KeyboardInterrupt
    assert process.exitcode == -signal.SIGKILL
    assert not list(Folder(tmp_path, long()).path.glob(".checkpoints/step-*"))


@pytest.mark.slow
def test_a_killed_process_group_leaves_nothing_in_shared_memory(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    command = [sys.executable, "-c", LONG_TRAINING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as started:
        until((Folder(tmp_path, long()).path / "progress.json").exists)
        os.killpg(started.pid, signal.SIGKILL)
    assert set(os.listdir("/dev/shm")) <= before
