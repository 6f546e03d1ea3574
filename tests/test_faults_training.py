"""Faults in real training processes: signals, kills, damaged files, a full disk, a hanging rank, out of memory."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from focalpo.config.compose import compose
from focalpo.planning.stages import in_order, train_stage
from focalpo.running.worker import AGAIN, make
from focalpo.stages.records import read_json_lines
from tests.faulty_training import TINY, described, ended, until, weights, worker


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs folder with everything that a training reads, sealed once."""
    runs = tmp_path_factory.mktemp("inputs")
    torch.set_num_threads(1)
    for stage in in_order([train_stage(compose([*TINY, f"runs={runs}"]), "focalpo")])[:-1]:
        make(runs, stage)
    return runs


def assert_bit_equal(path: Path, other: Path) -> None:
    expected = weights(other)
    assert all(torch.equal(value, expected[name]) for name, value in weights(path).items())
    for file in ("metrics.jsonl", "evaluation.jsonl"):
        losses = [[row["loss"] for row in read_json_lines(p / file)] for p in (path, other)]
        assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never disturbed."""
    path = described(inputs, tmp_path_factory.mktemp("whole"))
    ended(worker(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_the_code_for_a_restart(inputs, whole, tmp_path, number) -> None:
    path = described(inputs, tmp_path)
    process = worker(path)
    until(process, (path / "metrics.jsonl").exists)
    os.kill(process.pid, number)
    assert "asked to stop; saved after step" in ended(process, AGAIN)
    ended(worker(path))
    assert_bit_equal(path, whole)
    assert not (path / ".checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in a step", "while saving", "while sealing"])
def test_a_kill_at_any_moment_resumes_to_the_same_weights(inputs, whole, tmp_path, moment: str) -> None:
    path = described(inputs, tmp_path)
    process = worker(path)
    moments = {
        "in a step": lambda: (path / "metrics.jsonl").exists(),
        "while saving": lambda: any(not (p / "complete").exists() for p in path.glob(".checkpoints/step-*")),
        "while sealing": lambda: (path / "model" / "model.safetensors").exists(),
    }
    until(process, moments[moment])
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (path / "manifest.json").exists()
    ended(worker(path))
    assert_bit_equal(path, whole)


@pytest.mark.slow
def test_a_damaged_checkpoint_part_is_named_and_training_starts_over(inputs, whole, tmp_path) -> None:
    path = described(inputs, tmp_path)
    process = worker(path)
    until(process, lambda: list(path.glob(".checkpoints/step-*/complete")))
    os.kill(process.pid, signal.SIGUSR1)
    ended(process, AGAIN)
    (part,) = path.glob(".checkpoints/step-*/part-0-0.safetensors")
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    assert f"{part} is not what was saved (sha256 differs)" in ended(worker(path))
    assert_bit_equal(path, whole)


@pytest.mark.slow
def test_a_truncated_reference_cache_is_named_and_recomputed(inputs, whole, tmp_path) -> None:
    cache, original = truncated_cache(inputs, tmp_path)
    path = described(inputs, tmp_path)
    assert f"{cache} does not match its manifest (sha256 differs)" in ended(worker(path))
    assert cache.read_bytes() == original
    assert_bit_equal(path, whole)


def truncated_cache(inputs: Path, runs: Path) -> tuple[Path, bytes]:
    """A separate copy of the reference cache, truncated to half; returns its path and its original content."""
    described(inputs, runs)
    (runs / "reference").unlink()
    subprocess.run(["cp", "-r", str(inputs / "reference"), str(runs / "reference")], check=True)
    (cache,) = runs.glob("reference/*/logps.parquet")
    original = cache.read_bytes()
    cache.write_bytes(original[: len(original) // 2])
    return cache, original


@pytest.mark.slow
def test_two_workers_that_find_the_same_damage_repair_it_once_and_continue(inputs, whole, tmp_path) -> None:
    cache, original = truncated_cache(inputs, tmp_path)
    paths = [described(inputs, tmp_path), described(inputs, tmp_path, "seed=2")]
    output = "".join(ended(process) for process in [worker(path) for path in paths])
    assert output.count("does not match its manifest") == 1
    assert cache.read_bytes() == original
    assert_bit_equal(paths[0], whole)


@pytest.mark.slow
def test_ranks_report_damage_and_their_launcher_repairs_it_first(inputs, whole, tmp_path) -> None:
    """If one rank repaired an input alone, the others would not join, or would read it before it is complete."""
    cache, original = truncated_cache(inputs, tmp_path)
    path = described(inputs, tmp_path, "launch.ranks=2")
    output = ended(worker(path, ranks=2), code=1)
    assert f"error: {cache} does not match its manifest" in output and "submitted this job again" in output
    assert not (cache.parent / "manifest.json").exists()
    make(tmp_path, train_stage(compose([*TINY, f"runs={tmp_path}", "launch.ranks=2"]), "focalpo"))
    assert cache.read_bytes() == original
    assert_close(path, whole)
    ended(worker(path, ranks=2))  # sealed already: both ranks find that there is nothing to do


@pytest.mark.slow
def test_disagreeing_clocks_change_nothing(inputs, whole, tmp_path) -> None:
    path = described(inputs, tmp_path)
    process = worker(path)
    until(process, lambda: list(path.glob(".checkpoints/step-*/complete")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for number, file in enumerate(p for p in path.rglob("*") if p.is_file()):
        os.utime(file, (0, 0) if number % 2 else (4e9, 4e9))
    ended(worker(path))
    assert_bit_equal(path, whole)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_training_resumes_when_there_is_space(inputs, whole, tmp_path) -> None:
    """A tmpfs of 2 MiB in the worker's own mount namespace: a checkpoint of 2.4 MB does not fit."""
    path = described(inputs, tmp_path)
    small = f"mount -t tmpfs -o size=2m tmpfs '{path}' && cp '{tmp_path}/stage.json' '{path}/' && exec \"$@\""
    (tmp_path / "stage.json").write_bytes((path / "stage.json").read_bytes())
    output = ended(worker(path, "unshare", "-rm", "bash", "-c", small, "_"), code=1)
    assert f"error: no space left on the disk of {path}; free some space and run again" in output
    assert "Traceback" not in output
    ended(worker(path))
    assert_bit_equal(path, whole)


@pytest.mark.slow
def test_inputs_may_be_read_only_and_a_read_only_stage_folder_is_one_line(inputs, whole, tmp_path) -> None:
    path = described(inputs, tmp_path)
    read_only = "mount --bind '{0}' '{0}' && mount -o remount,ro,bind '{0}' && exec \"$@\""
    output = ended(worker(path, "unshare", "-rm", "bash", "-c", read_only.format(path), "_"), code=1)
    assert f"error: {path} is on a read-only disk; set runs= to a writable folder" in output
    ended(worker(path, "unshare", "-rm", "bash", "-c", read_only.format(inputs), "_"))
    assert_bit_equal(path, whole)


@pytest.mark.slow
def test_out_of_memory_reports_numbers_and_what_to_lower(inputs, tmp_path) -> None:
    path = described(inputs, tmp_path, "train.micro_batch_tokens=4096", "train.epochs=50", "train.checkpoint_every=0")
    # This gives every tensor its own mapping, and after the first of many steps the process gets no more mappings. The
    # arena of another thread would still have 64 MiB, and how many there are depends on what else the machine does.
    process = worker(path, "env", "MALLOC_MMAP_THRESHOLD_=65536", "MALLOC_ARENA_MAX=1")
    until(process, (path / "metrics.jsonl").exists)
    resource.prlimit(process.pid, resource.RLIMIT_AS, (1, 1))
    output = ended(process, code=1)
    assert "error: train ran out of memory: " in output and "lower train.micro_batch_tokens=4096" in output
    assert "GiB in this process at the peak" in output


@pytest.mark.slow
def test_a_second_worker_waits_for_the_first_and_finds_the_stage_sealed(inputs, whole, tmp_path) -> None:
    path = described(inputs, tmp_path)
    first = worker(path)
    until(first, (path / "metrics.jsonl").exists)
    second = worker(path)
    ended(first)
    ended(second)
    assert_bit_equal(path, whole)


@pytest.mark.slow
def test_a_hanging_rank_ends_the_run_with_the_stack_of_each_rank(inputs, whole, tmp_path) -> None:
    path = described(inputs, tmp_path, "launch.ranks=2", "launch.hang_seconds=15")
    process = worker(path, ranks=2)
    until(process, (path / "metrics.jsonl").exists)
    one = max(ranks_of(process, path))
    os.kill(one, signal.SIGSTOP)
    time.sleep(20)
    os.kill(one, signal.SIGCONT)
    ended(process, code=1)
    stacks = [(path / ".stacks" / f"stacks-rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert all(" in train\n" in stack for stack in stacks), "each rank's stack includes the training loop"
    ended(worker(path, ranks=2))
    assert_close(path, whole)


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_the_run_resumes(inputs, whole, tmp_path) -> None:
    path = described(inputs, tmp_path, "launch.ranks=2", "train.zero_stage=3")
    process = worker(path, ranks=2)
    until(process, lambda: list(path.glob(".checkpoints/step-*/complete")))
    os.kill(ranks_of(process, path)[0], signal.SIGKILL)
    assert "SIGKILL" in ended(process, code=1)
    assert ranks_of(process, path) == []
    ended(worker(path, ranks=2))
    assert_close(path, whole)


def ranks_of(process: subprocess.Popen, path: Path) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-f", f"focalpo.running.worker {path}"], capture_output=True, text=True
    ).stdout.split()
    return [int(pid) for pid in found if int(pid) != process.pid]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_checkpoint_of_two_ranks_resumes_on_fewer_and_on_more(inputs, whole, tmp_path, ranks: int) -> None:
    path = described(inputs, tmp_path, "launch.ranks=2", "train.zero_stage=3")
    process = worker(path, ranks=2)
    until(process, (path / "metrics.jsonl").exists)
    (path / ".checkpoints").mkdir(exist_ok=True)
    (path / ".checkpoints" / "stop").touch()
    assert "saved after step" in ended(process, code=None)
    assert len(list(path.glob(".checkpoints/step-*/part-*"))) == 2
    described(inputs, tmp_path, f"launch.ranks={ranks}", "train.zero_stage=3")
    ended(worker(path, ranks=ranks))
    assert_close(path, whole)


def assert_close(path: Path, other: Path) -> None:
    """Ranks sum in another order, so the last bits differ; the same data in the same order gives the same losses."""
    expected = weights(other)
    assert max(float((value - expected[name]).abs().max()) for name, value in weights(path).items()) < 2e-4
    losses = [[row["loss"] for row in read_json_lines(p / "metrics.jsonl")] for p in (path, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
