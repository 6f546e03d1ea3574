"""The engine matches plain PyTorch, and packing, micro-batches and resuming change no result."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from focalpo.data.trees import with_mismatched, with_shared
from focalpo.stages.folder import Stopped
from focalpo.training import checkpoint
from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES, BatchLevel, BatchLogps, Logps, TokenLevel, TokenLogps
from focalpo.training.packing import MicroBatch, pack
from focalpo.training.scoring import score
from focalpo.training.settings import TrainSettings
from focalpo.training.steps import global_batch_at, learning_rate_at, steps_of
from tests.test_logprobs import padded_logps, padded_tokens
from tests.tiny import SETTINGS, random_trees, tiny_model

TREES = random_trees(16, seed=11)


# Their gradient jumps where the policy is the reference, so that rounding would decide: they get another reference.
JUMPS = ("dpop", "omni_dpo", "beta_dpo")


def examples(objective_name: str) -> Examples:
    """The tiny data set with the reference log-probs of the untrained model."""
    policy = PackedPolicy(tiny_model(seed=int(objective_name in JUMPS)))
    mismatched = with_mismatched(TREES)
    reference = score(policy, TREES, ("chosen", "rejected"), 1 << 20)
    reference |= score(policy, mismatched, ("mismatched",), 1 << 20)
    reference |= score(policy, with_shared(TREES), ("chosen_shared", "rejected_shared"), 1 << 20)
    return Examples(TREES, reference if OBJECTIVES[objective_name].needs_reference else {}, mismatched)


def trained(
    objective_name: str, settings: TrainSettings, folder: Path, policy: PackedPolicy | None = None
) -> dict[str, torch.Tensor]:
    """Weights after a full run of the engine."""
    start_ranks()
    engine = open_engine(policy or PackedPolicy(tiny_model()), settings)
    train(engine, OBJECTIVES[objective_name](), examples(objective_name), settings, seed=5, checkpoints=folder)
    return {name: value.detach().clone() for name, value in engine.module.model.state_dict().items()}


class AsksToStop(PackedPolicy):
    """A policy that asks the run to stop in its nth forward pass."""

    def __init__(self, call: int, folder: Path) -> None:
        super().__init__(tiny_model())
        self.left, self.stop = call, folder / "stop"

    def forward(self, micro: MicroBatch) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            self.stop.touch()
        return super().forward(micro)


def naively_trained(objective_name: str, settings: TrainSettings) -> dict[str, torch.Tensor]:
    """The same run as a textbook loop: padded forwards, the whole batch at once, plain torch."""
    model, objective, data = tiny_model(), OBJECTIVES[objective_name](), examples(objective_name)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=(0.9, settings.adam_beta2), weight_decay=settings.weight_decay
    )
    steps = steps_of(len(TREES), settings)
    for step in range(steps):
        items = global_batch_at(step, len(TREES), settings.global_batch, seed=5)
        trees = [TREES[item] for item in items]
        cached = {b: torch.tensor([values[item] for item in items]) for b, values in data.reference.items()}
        lengths = {b: torch.tensor([float(len(t.branches[b])) for t in trees]) for b in ("chosen", "rejected")}
        with torch.no_grad():
            odd = padded_logps(model, [data.mismatched[item] for item in items], ("mismatched",))[:, 0]
        picked, squares, response = padded_tokens(model, trees)
        logps = (picked * response).sum(-1)
        policy = {"chosen": logps[0::2], "rejected": logps[1::2]}
        terms = objective.batch_terms(Logps(detached(policy) | {"mismatched": odd}, cached, lengths, {}))
        logps = Logps(policy, cached, lengths, {name: value.mean() for name, value in terms.items()})
        if isinstance(objective, BatchLevel):
            logps = BatchLogps(policy, cached, lengths, {}, terms)
        elif isinstance(objective, TokenLevel):
            places = {"chosen": slice(0, None, 2), "rejected": slice(1, None, 2)}
            of_tokens = ({b: part[at][response[at].bool()] for b, at in places.items()} for part in (picked, squares))
            logps = TokenLogps(policy, cached, lengths, {}, *of_tokens)
        objective(logps).loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, steps, settings)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def detached(logps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {branch: values.detach() for branch, values in logps.items()}


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_like_the_textbook_loop(name: str, tmp_path: Path) -> None:
    assert_same_weights(trained(name, SETTINGS, tmp_path), naively_trained(name, SETTINGS), atol=2e-5)


@pytest.mark.parametrize("name", ["focalpo", "kto", "cpo", "sft", "wpo", "ld_dpo", "beta_dpo", "amapo"])
@pytest.mark.parametrize("budget", [1, 90])
def test_micro_batches_do_not_change_the_weights(name: str, budget: int, tmp_path: Path) -> None:
    whole = trained(name, SETTINGS, tmp_path / "whole")
    assert_same_weights(trained(name, replace(SETTINGS, micro_batch_tokens=budget), tmp_path / "parts"), whole, 2e-5)


def test_activation_checkpointing_does_not_change_the_weights(tmp_path: Path) -> None:
    plain = trained("dpo", SETTINGS, tmp_path / "a")
    assert_same_weights(trained("dpo", replace(SETTINGS, activation_checkpointing=True), tmp_path / "b"), plain, 1e-6)


def test_the_same_seed_gives_bit_equal_weights_and_another_does_not(tmp_path: Path) -> None:
    first = trained("focalpo", SETTINGS, tmp_path / "a")
    assert_same_weights(trained("focalpo", SETTINGS, tmp_path / "b"), first, atol=0)
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model()), SETTINGS)
    train(engine, OBJECTIVES["focalpo"](), examples("focalpo"), SETTINGS, seed=6, checkpoints=tmp_path / "c")
    assert any(not torch.equal(value, first[name]) for name, value in engine.module.model.state_dict().items())


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trained("focalpo", SETTINGS, tmp_path / "whole")
    start_ranks()
    saving = replace(SETTINGS, checkpoint_every=2)

    class Stop(Exception):
        pass

    class Killer:
        def look(self, engine, step: int, steps: int) -> None:
            if step == 3:
                raise Stop

    engine = open_engine(PackedPolicy(tiny_model()), saving)
    data = examples("focalpo")
    with pytest.raises(Stop):
        train(engine, OBJECTIVES["focalpo"](), data, saving, seed=5, checkpoints=tmp_path / "cut", watch=Killer())
    resumed = open_engine(PackedPolicy(tiny_model(seed=99)), saving)
    train(resumed, OBJECTIVES["focalpo"](), data, saving, seed=5, checkpoints=tmp_path / "cut")
    assert_same_weights(dict(resumed.module.model.state_dict()), whole, atol=0)


def stepped_engine(settings: TrainSettings = SETTINGS):
    """An engine after one optimizer step."""
    start_ranks()
    engine = open_engine(PackedPolicy(tiny_model()), settings)
    engine.backward(engine(pack(TREES[:2], ("chosen", "rejected"))).sum())
    engine.step()
    return engine


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path) -> None:
    engine = stepped_engine()
    checkpoint.save(engine, tmp_path, 1, "run")
    (tmp_path / "step-000002").mkdir()
    assert checkpoint.resume(engine, tmp_path, "run") == 1
    checkpoint.save(engine, tmp_path, 3, "run")
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-000003"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    engine = stepped_engine()
    checkpoint.save(engine, tmp_path, 1, "another run")
    with pytest.raises(ValueError, match="step-000001 was saved by a run with other settings; delete .* and run again"):
        train(engine, OBJECTIVES["dpo"](), examples("dpo"), SETTINGS, seed=5, checkpoints=tmp_path)


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_bf16_follows_fp32(zero_stage: int, tmp_path: Path) -> None:
    """Twelve steps in bf16 end near fp32's weights: within what rounding to 8 bits explains, and far from the start."""
    exact = trained("focalpo", replace(SETTINGS, epochs=3), tmp_path / "fp32")
    start = tiny_model().state_dict()
    start_ranks()
    settings = replace(SETTINGS, epochs=3, dtype="bfloat16", zero_stage=zero_stage)
    engine = open_engine(PackedPolicy(tiny_model().to(torch.bfloat16)), settings)
    train(engine, OBJECTIVES["focalpo"](), examples("focalpo"), settings, seed=5, checkpoints=tmp_path / "bf16")
    found = dict(engine.module.model.state_dict())
    if zero_stage == 3:
        found = {name.removeprefix("model."): v for name, v in engine._zero3_consolidated_16bit_state_dict().items()}
    moved = torch.cat([(exact[name] - start[name]).flatten() for name in exact])
    off = torch.cat([(found[name].float() - exact[name]).flatten() for name in exact])
    assert found["model.norm.weight"].dtype == torch.bfloat16
    assert off.norm() < 0.3 * moved.norm()


LAYOUTS = [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "float32"), (3, "bfloat16")]


@pytest.mark.parametrize("saved_in", LAYOUTS)
@pytest.mark.parametrize("resumed_in", LAYOUTS)
def test_a_checkpoint_resumes_in_any_zero_stage(saved_in, resumed_in, tmp_path: Path) -> None:
    """The state is bit-equal in every layout; Adam's step count, which the next step needs, is restored as well."""
    (stage, dtype), (other_stage, other_dtype) = saved_in, resumed_in
    first = stepped_engine(replace(SETTINGS, zero_stage=stage, dtype=dtype))
    checkpoint.save(first, tmp_path / "a", 1, "run")
    second = open_engine(PackedPolicy(tiny_model(seed=9)), replace(SETTINGS, zero_stage=other_stage, dtype=other_dtype))
    assert checkpoint.resume(second, tmp_path / "a", "run") == 1
    checkpoint.save(second, tmp_path / "b", 1, "run")
    one, two = (load_file(tmp_path / name / "step-000001" / "part-0-0.safetensors") for name in "ab")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    steps = {float(state["step"]) for state in second.basic_optimizer.state.values()}
    assert steps == {1.0}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_reported_and_not_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = stepped_engine()
    checkpoint.save(engine, tmp_path, 1, "run")
    part = tmp_path / "step-000001" / "part-0-0.safetensors"
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content if damage == "flipped" else content[:-100])
    if damage == "missing":
        part.unlink()
    assert checkpoint.resume(engine, tmp_path, "run") == 0
    assert f"{part} is not what was saved (sha256 differs)" in capsys.readouterr().err


def test_a_run_that_is_asked_to_stop_is_saved_first(tmp_path: Path) -> None:
    whole = trained("focalpo", SETTINGS, tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped, match="saved after step 1"):
        trained("focalpo", SETTINGS, folder, AsksToStop(1, folder))
    (folder / "stop").unlink()
    assert_same_weights(trained("focalpo", SETTINGS, folder), whole, atol=0)


def test_a_run_stopped_within_a_global_batch_resumes_exactly(tmp_path: Path) -> None:
    """Four micro-batches per step, stopped in the second step's second: its gradients are dropped and recomputed."""
    small = replace(SETTINGS, micro_batch_tokens=1)
    whole = trained("focalpo", small, tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped, match="saved after step 1"):
        trained("focalpo", small, folder, AsksToStop(6, folder))
    (folder / "stop").unlink()
    assert_same_weights(trained("focalpo", small, folder), whole, atol=0)


def test_a_run_that_is_asked_to_stop_before_its_first_step_saves_nothing(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with pytest.raises(Stopped, match="asked to stop before the first step"):
        trained("focalpo", SETTINGS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stop"]


def test_a_run_is_marked_as_not_to_be_killed_until_it_is_sealed_or_has_left(tmp_path: Path) -> None:
    """After the last step its weights are exported, and lost when it is killed then; one that was saved may be."""
    trained("focalpo", SETTINGS, tmp_path / "whole")
    assert (tmp_path / "whole" / "saves").exists()
    saving = replace(SETTINGS, checkpoint_every=1)
    with pytest.raises(Stopped, match="saved after step 2"):
        trained("focalpo", saving, tmp_path / "left", AsksToStop(2, tmp_path / "left"))
    assert sorted(path.name for path in (tmp_path / "left").iterdir()) == ["step-000002", "stop"]
