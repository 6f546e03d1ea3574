"""A loss or gradient that is not finite is reported in one line with its batch; its step is not saved or sealed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from focalpo.config.compose import compose
from focalpo.planning.stages import in_order, train_stage
from focalpo.running.worker import make_here
from focalpo.stages.folder import Folder
from focalpo.training.engine import open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.model import DTYPES
from focalpo.training.objective import OBJECTIVES, Logps
from tests.test_engine import TREES, examples
from tests.tiny import SETTINGS, tiny_model


def test_a_loss_that_is_not_finite_stops_the_run_and_names_pairs(tmp_path: Path) -> None:
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model()), SETTINGS)
    data = examples("dpo")
    data.reference["chosen"][TREES.index(TREES[0])] = math.nan
    with pytest.raises(ValueError, match=r"not finite at step \d, pairs t0 \(1 of 4\); .* lower train.learning_rate"):
        train(engine, OBJECTIVES["dpo"](), data, SETTINGS, seed=5, checkpoints=tmp_path / ".checkpoints")
    dumped = json.loads((tmp_path / "not_finite.json").read_text())["pairs"]
    assert len(dumped) == 4 and [math.isnan(pair["loss"]) for pair in dumped].count(True) == 1
    assert all(pair["prompt"] == next(tree.prompt for tree in TREES if tree.id == pair["id"]) for pair in dumped)


class Spoiled:
    """An objective that adds 0 to every loss and, at one of its calls, NaN to every gradient."""

    def __init__(self, objective, at: int) -> None:
        self.objective, self.at, self.calls = objective, at, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.objective, name)

    def __call__(self, logps: Logps):
        found = self.objective(logps)
        self.calls += 1
        zero = logps.policy["chosen"] - logps.policy["chosen"].detach()
        # d sqrt(x) / dx is infinite at 0, and 0 times it is NaN.
        return replace(found, loss=found.loss + 0 * zero.sqrt()) if self.calls == self.at else found


@pytest.mark.parametrize("zero_stage, dtype", [(0, "float32"), (1, "float32"), (1, "bfloat16"), (3, "float32")])
def test_a_gradient_that_is_not_finite_stops_the_run_before_its_step_is_saved(
    zero_stage: int, dtype: str, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, checkpoint_every=1, zero_stage=zero_stage, dtype=dtype)
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model().to(DTYPES[dtype])), settings)
    bad, folder = Spoiled(OBJECTIVES["dpo"](), at=3), tmp_path / ".checkpoints"
    with pytest.raises(ValueError, match=r"gradient is not finite at step 3, though the losses of all 4 pairs are; .*"):
        train(engine, bad, examples("dpo"), settings, seed=5, checkpoints=folder)
    assert [path.name for path in folder.glob("step-*")] == ["step-000002"]
    saved = [load_file(part) for part in folder.glob("step-*/*.safetensors")]
    assert all(value.isfinite().all() for part in saved for value in part.values())
    dumped = json.loads((tmp_path / "not_finite.json").read_text())
    assert dumped["step"] == 3 and len(dumped["pairs"]) == 4


@pytest.mark.parametrize("step", [1, 3])
def test_a_stage_whose_gradient_is_not_finite_is_not_sealed(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the last of three steps, where no later loss would show it."""
    phase = "model.phases.pretraining"
    (first, *_) = in_order([train_stage(compose([f"{phase}.count=320", f"{phase}.train.max_steps=3"]), "dpo")])
    assert first.kind == "sft" and not first.inputs
    folder, sft = Folder(tmp_path, first), OBJECTIVES["sft"]()
    # A whole global batch of the pocket's short trees is one micro-batch: one call of the objective is one step.
    monkeypatch.setitem(OBJECTIVES, "sft", lambda: Spoiled(sft, at=step))
    with pytest.raises(ValueError, match=f"gradient is not finite at step {step}, "):
        make_here(folder)
    assert not folder.sealed and not (folder.path / "model").exists()
    assert "gradient is not finite" in (folder.path / "error.txt").read_text()
