"""The optimizer's states in host memory: the same training as on the device, bytes by hand, killed and resumed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from focalpo.training import checkpoint
from focalpo.training.engine import open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES
from tests.test_engine import examples
from tests.tiny import SETTINGS, tiny_model

ROOT = Path(__file__).parent.parent
SHARDED = replace(SETTINGS, zero_stage=3, epochs=2, micro_batch_tokens=90)
OFFLOADED = replace(SHARDED, offload_optimizer=True)


class Killer:
    """A watch that ends this process, as the kernel would, when it looks at step 3."""

    def look(self, engine, step: int, steps: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def trained(settings, folder: Path, watch: Killer | None = None):
    """The engine after a full run, on all ranks together, and its whole weights, which rank 0 has."""
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model().to(getattr(torch, settings.dtype))), settings)
    objective = OBJECTIVES["focalpo"]()
    train(engine, objective, examples("focalpo"), settings, seed=5, checkpoints=folder, watch=watch)
    return engine, engine._zero3_consolidated_16bit_state_dict() or {}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert found.keys() == expected.keys() and found
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=atol, rtol=0)


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_offloading_changes_no_weight_beyond_rounding(dtype: str, atol: float, tmp_path: Path) -> None:
    plain, offloaded = (replace(each, dtype=dtype) for each in (SHARDED, OFFLOADED))
    assert_close(trained(offloaded, tmp_path / "a")[1], trained(plain, tmp_path / "b")[1], atol)


def test_states_in_host_memory_by_hand(tmp_path: Path) -> None:
    """20 bytes a parameter: fp32 weights, two moments, gradients, and their sums over micro-steps."""
    engine, _ = trained(replace(OFFLOADED, dtype="bfloat16"), tmp_path)
    count, zero = sum(each.ds_numel for each in engine.module.parameters()), engine.optimizer
    weights = checkpoint.fp32_weights(engine)
    moments = [engine.basic_optimizer.state[weight][name] for weight in weights for name in checkpoint.MOMENTS]
    held = [*weights, *moments, *(weight.grad for weight in weights), zero.grad_partitions_flat_buffer]
    assert sum(each.nbytes for each in held) == 20 * count
    assert zero.offload_optimizer and engine.basic_optimizer.defaults["fused"]


def test_offloading_is_refused_in_another_stage_than_3() -> None:
    (problem,) = replace(SETTINGS, offload_optimizer=True).problems()
    assert problem == "train.offload_optimizer=true requires train.zero_stage=3"
    assert not OFFLOADED.problems()


ON_RANKS = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from focalpo.processes.lifeline import leave
from focalpo.training.ranks import rank
from tests.test_offload import Killer, OFFLOADED, SHARDED, trained
out, saving = Path(sys.argv[1]), replace(OFFLOADED, checkpoint_every=2)
def run(name, *how):
    weights = trained(*how)[1]
    if rank() == 0:
        torch.save(weights, out / f"{name}.pt")
if not (out / "cut").exists():
    run("plain", SHARDED, out / "a")
    run("whole", saving, out / "b")
run("resumed", saving, out / "cut", None if (out / "cut").exists() else Killer())
leave()
"""


@pytest.mark.slow
def test_two_ranks_that_are_killed_resume_to_the_same_bits(tmp_path: Path) -> None:
    (script := tmp_path / "run.py").write_text(ON_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("whole", "resumed"):
        result = subprocess.run([*command, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert (tmp_path / f"{name}.pt").exists(), result.stderr
        assert (result.returncode == 0) == (name == "resumed")
    plain, whole, resumed = (torch.load(tmp_path / f"{name}.pt") for name in ("plain", "whole", "resumed"))
    assert_close(whole, plain, 1e-6)
    assert_close(resumed, whole, 0.0)
