"""AdamW with moments in 8 bit: bytes by hand, losses beside fp32's, killed and resumed to the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from focalpo.training import checkpoint
from focalpo.training.eight_bit import STATES, adamw8bit, keep_moments, moments_of, put_moments
from focalpo.training.engine import open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES
from tests.test_engine import examples
from tests.tiny import SETTINGS, tiny_model

SHARDED = replace(SETTINGS, zero_stage=3, epochs=4, dtype="bfloat16", micro_batch_tokens=90)
EIGHT_BIT = replace(SHARDED, optimizer="adamw8bit")


class Losses:
    """A follower that keeps the losses and ends the run before a step."""

    def __init__(self, last: int | None = None) -> None:
        self.found: list[float] = []
        self.last = last

    def resume_at(self, step: int) -> None: ...

    def log(self, step: int, **values: float) -> None:
        if step == self.last:
            raise InterruptedError
        self.found.append(values["loss"])

    def progress(self, done: int, total: int, **values: float) -> None: ...


def trained(settings, folder: Path, losses: Losses, seed: int = 0):
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model(seed=seed).to(torch.bfloat16)), settings)
    train(engine, OBJECTIVES["focalpo"](), examples("focalpo"), settings, seed=5, checkpoints=folder, tracker=losses)
    return engine


def states(engine) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    return engine.basic_optimizer, checkpoint.fp32_weights(engine)


def state_of(engine) -> dict[str, torch.Tensor]:
    optimizer, weights = states(engine)
    return {f"weights.{place}": weight.detach().clone() for place, weight in enumerate(weights)} | moments_of(
        optimizer, weights
    )


def test_moments_are_in_8_bit_and_losses_near_those_of_fp32(tmp_path: Path) -> None:
    """24,800 parameters in one share of 97 blocks: a byte of each moment, and 4 for each block's scale."""
    exact, eight = Losses(), Losses()
    trained(SHARDED, tmp_path / "fp32", exact)
    engine = trained(EIGHT_BIT, tmp_path / "8 bit", eight)
    count = sum(each.ds_numel for each in engine.module.parameters())
    sizes = {name: value.nbytes for name, value in state_of(engine).items()}
    blocks = -(-count // 256)
    assert sizes == {"weights.0": 4 * count} | {
        f"moments.0.0.{name}": size for name, size in zip(STATES, (count, count, 4 * blocks, 4 * blocks), strict=True)
    }
    moved = exact.found[0] - exact.found[-1]
    assert moved > 0.1 and eight.found != exact.found
    assert eight.found == pytest.approx(exact.found, abs=0.02 * moved)


def test_a_run_that_ends_early_resumes_to_the_same_bits(tmp_path: Path) -> None:
    saving = replace(EIGHT_BIT, checkpoint_every=2)
    whole = state_of(trained(saving, tmp_path / "whole", Losses()))
    with pytest.raises(InterruptedError):
        trained(saving, tmp_path / "cut", Losses(last=8))
    resumed = state_of(trained(saving, tmp_path / "cut", Losses(), seed=9))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_moments_of_another_number_of_ranks_are_refused(tmp_path: Path) -> None:
    engine = trained(replace(EIGHT_BIT, max_steps=2), tmp_path, Losses())
    two: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in moments_of(*states(engine)).items():
        for key in (name, name.replace("moments.0", "moments.1")):
            keep_moments(two, key, value)
    assert two[0].keys() == moments_of(*states(engine)).keys() and not two[1], "a rank keeps what it saved"
    with pytest.raises(ValueError, match="resume on as many ranks as saved them; set launch.ranks=2, or delete"):
        put_moments(*states(engine), two, 2, tmp_path / "step-000002")


def test_without_its_package_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focalpo.training.eight_bit.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs its package: make setup EXTRAS=dev,bitsandbytes"):
        adamw8bit([], 1e-3, (0.9, 0.999), 0.0)


@pytest.mark.parametrize("wrong", [{"zero_stage": 2}, {"offload_optimizer": True}])
def test_it_is_refused_in_another_layout(wrong: dict) -> None:
    (problem,) = replace(EIGHT_BIT, **wrong).problems()
    assert problem.startswith("train.optimizer=adamw8bit requires train.zero_stage=3 and train.offload_optimizer=false")
    assert not EIGHT_BIT.problems()
