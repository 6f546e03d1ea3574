"""Several ranks through the project's own launcher: the same weights as one rank, a complete export, resuming."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from focalpo.stages.records import read_json_lines

ROOT = Path(__file__).parent.parent
SMALL = [
    "setting=pocket_base",
    "experiment=pocket/focalpo",
    "model.phases.pretraining.count=640",
    "model.phases.pretraining.train.max_steps=20",
    "model.phases.sft.count=320",
    "data.prompts=1500",
    "train.max_steps=6",
    "dynamics.train_pairs=50",
]


def train(runs: Path, *overrides: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "recipes.train", f"runs={runs}", *SMALL, *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def weights(runs: Path) -> dict[str, torch.Tensor]:
    (file,) = runs.glob("train/*/model/model.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one rank's training, whose inputs the other trainings of this file share."""
    runs = tmp_path_factory.mktemp("alone")
    finished(train(runs))
    return runs


def share_inputs(alone: Path, runs: Path) -> None:
    for kind in ("sft", "pairs", "reference"):
        (runs / kind).symlink_to(alone / kind)


def move_train(runs: Path, name: str) -> Path:
    """Move the finished train stage aside, so that the same stage can be made again with another launch."""
    (runs / "train").rename(runs / name)
    (kept,) = (runs / name).iterdir()
    return kept


@pytest.mark.slow
def test_zero_3_on_two_ranks_equals_one_rank_and_exports_every_byte(alone: Path, tmp_path: Path) -> None:
    share_inputs(alone, tmp_path)
    finished(train(tmp_path, "launch.ranks=2", "train.zero_stage=3"))
    expected, found = weights(alone), weights(tmp_path)
    assert expected.keys() == found.keys()
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) < 1e-5
    (one,) = (alone / "train").iterdir()
    (two,) = (tmp_path / "train").iterdir()
    sizes = [(folder / "model" / "model.safetensors").stat().st_size for folder in (one, two)]
    assert sizes[0] == sizes[1]
    rows = torch.tensor([[2, 4, 9, 5]])
    logits = [AutoModelForCausalLM.from_pretrained(folder / "model")(rows).logits for folder in (one, two)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)
    losses = [[row["loss"] for row in read_json_lines(f / "metrics.jsonl")] for f in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 6


@pytest.mark.slow
def test_two_ranks_killed_by_the_kernel_resume_to_bit_equal_weights(alone: Path, tmp_path: Path) -> None:
    """One rank: tests/test_faults_training.py."""
    share_inputs(alone, tmp_path)
    how = ["launch.ranks=2", "train.zero_stage=2", "train.checkpoint_every=2", "train.max_steps=10"]
    finished(train(tmp_path, *how))
    whole = move_train(tmp_path, "whole")
    process = train(tmp_path, *how, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob("train/*/.checkpoints/step-*/complete")):
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("train/*/manifest.json"))
    (checkpoint,) = tmp_path.glob("train/*/.checkpoints/step-*/complete")
    finished(train(tmp_path, *how))
    expected = load_file(whole / "model" / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())
    steps = [row["step"] for row in read_json_lines(next(tmp_path.glob("train/*/metrics.jsonl")))]
    assert steps == list(range(1, 11)), checkpoint


@pytest.mark.slow
def test_a_mistake_on_the_ranks_is_reported_in_one_line(alone: Path, tmp_path: Path) -> None:
    share_inputs(alone, tmp_path)
    process = train(tmp_path, "launch.ranks=2", "train.zero_stage=1", "train.global_batch=5000")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert "pairs do not fill one train.global_batch of 5000; lower it" in output
