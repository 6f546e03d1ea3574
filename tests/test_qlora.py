"""QLoRA: what the 4 bits stand for, the reference without adapters, gradients, merging, killing and resuming."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from focalpo.config.compose import compose
from focalpo.planning.stages import train_stage
from focalpo.training import quantised
from focalpo.training.cost import NF4, Shape, quantised_bytes
from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.lora import add_adapters, merge
from focalpo.training.model import ModelSource, load_model
from focalpo.training.moved import content, rounding_warnings
from focalpo.training.objective import OBJECTIVES
from focalpo.training.packing import pack
from focalpo.training.scoring import score
from focalpo.training.settings import LoraSettings
from tests.tiny import SETTINGS, random_trees, tiny_model

LORA = LoraSettings(rank=4, alpha=8, targets=["q_proj", "v_proj", "gate_proj", "down_proj"], quantization="nf4")
TREES = random_trees(16, seed=11)
BRANCHES = ("chosen", "rejected")
BATCH = pack(TREES[:5], BRANCHES)
# The paper's appendix E: 8 quantiles of a normal distribution on one side of zero and 9 on the other, the largest is 1.
END = ((1 - 1 / 30) + (1 - 1 / 32)) / 2
SIDES = [[NormalDist().inv_cdf(END + (0.5 - END) * step / count) for step in range(count)] for count in (8, 7)]
LEVELS = torch.tensor(sorted([*SIDES[0], 0.0, *(-value for value in SIDES[1])])) / SIDES[0][0]


def full_model():
    return tiny_model(hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("qlora") / "model"
    full_model().save_pretrained(folder)
    return ModelSource(str(folder))


def quantised_model(source: ModelSource, dtype: str = "float32"):
    return load_model(source, dtype, torch.device("cpu"), LORA.quantization)


def adapted(source: ModelSource, dtype: str = "float32"):
    """A policy over 4 bits with adapters that are no longer zero, and the handle on them."""
    model = quantised_model(source, dtype)
    adapters = add_adapters(model, LORA, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return PackedPolicy(model), adapters


def plain_of(model) -> dict[str, Tensor]:
    """The ordinary state dict that a quantised model stands for."""
    return {name: quantised.dense(value).detach() for name, value in model.named_parameters()}


def naive(weight: Tensor) -> Tensor:
    """NF4 without quantised scales: of each 64 weights in a row the nearest levels of their largest absolute value."""
    blocks = weight.detach().float().reshape(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    return (LEVELS[((blocks / scales)[..., None] - LEVELS).abs().argmin(-1)] * scales).view(weight.shape)


def test_the_layers_matrices_are_nf4_and_nothing_else_is(source: ModelSource) -> None:
    full = dict(full_model().named_parameters())
    model = quantised_model(source)
    small = {name for name, value in model.named_parameters() if value.dtype == torch.uint8}
    assert small == {name for name in full if name.endswith("_proj.weight")}
    for name, value in plain_of(model).items():
        if name not in small:
            assert torch.equal(value, full[name])
            continue
        scale = full[name].detach().reshape(-1, 64).abs().amax()
        # The scales' own 8 bits move a weight by less than 2 % of the largest one.
        torch.testing.assert_close(value, naive(full[name]), atol=0.02 * float(scale), rtol=0)
        assert (value - full[name]).norm() > 0.05 * full[name].norm()


def test_log_probs_are_those_of_the_dense_weights_within_the_error_of_nf4(source: ModelSource) -> None:
    with torch.no_grad():
        model = quantised_model(source)
        found, full, dense = PackedPolicy(model).eval()(BATCH), full_model(), full_model()
        dense.load_state_dict(plain_of(model))
        torch.testing.assert_close(PackedPolicy(dense)(BATCH), found, atol=1e-4, rtol=0)
        off = (found - PackedPolicy(full)(BATCH)).norm()
        for name, parameter in full.named_parameters():
            if name.endswith("_proj.weight"):
                parameter.copy_(naive(parameter))
        # What is left is due to the 8 bits of the scales, which are finer than the weights' 4.
        assert (found - PackedPolicy(full)(BATCH)).norm() < 0.25 * off


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_its_adapters_the_policy_is_the_reference_bit_for_bit(source: ModelSource, dtype: str) -> None:
    reference = score(PackedPolicy(quantised_model(source, dtype)).eval(), TREES, BRANCHES, 512)
    policy, adapters = adapted(source, dtype)
    assert score(policy, TREES, BRANCHES, 512) != reference
    adapters.disable_adapter_layers()
    assert score(policy, TREES, BRANCHES, 512) == reference
    with_gradient = policy.train()(BATCH)
    with torch.no_grad():
        assert torch.equal(policy.eval()(BATCH), with_gradient)


def test_gradients_of_adapters_follow_from_those_of_the_dense_weights(source: ModelSource) -> None:
    """d loss / d B = s dW A^T and d loss / d A = s B^T dW, with dW of an ordinary model whose weight is W + s B A."""
    policy, _ = adapted(source)
    policy(BATCH).sum().backward()
    dense, scale = full_model(), LORA.alpha / LORA.rank
    dense.load_state_dict(plain_of(quantised_model(source)))
    layers = {
        name: (each.lora_A["default"].weight, each.lora_B["default"].weight)
        for name, each in policy.model.named_modules()
        if hasattr(each, "lora_A")
    }
    with torch.no_grad():
        for name, (a, b) in layers.items():
            dense.get_submodule(name).weight += scale * b @ a
    PackedPolicy(dense)(BATCH).sum().backward()
    assert len(layers) == 2 * len(LORA.targets)
    for name, (a, b) in layers.items():
        full = dense.get_submodule(name).weight.grad
        torch.testing.assert_close(b.grad, scale * full @ a.T, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(a.grad, scale * b.T @ full, atol=2e-3, rtol=1e-3)
    assert {name for name, each in policy.named_parameters() if each.grad is not None} == {
        name for name, _ in policy.named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_model_is_an_ordinary_one(source: ModelSource, dtype: str, tmp_path: Path) -> None:
    policy, adapters = adapted(source, dtype)
    bare = plain_of(quantised_model(source, dtype))
    expected, start = policy(BATCH).detach(), content(quantised_model(source, dtype).parameters())
    layers = {name: each for name, each in policy.model.named_modules() if hasattr(each, "lora_A")}
    merge(adapters)
    for name, value in policy.model.state_dict().items():
        added = (
            layers[name.removesuffix(".weight")].get_delta_weight("default")
            if name.removesuffix(".weight") in layers
            else 0
        )
        assert torch.equal(value, (bare[name].float() + added).to(getattr(torch, dtype)))
    assert not rounding_warnings(start, policy.model)
    policy.model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = load_model(ModelSource(str(tmp_path)), dtype)
    assert loaded.state_dict().keys() == full_model().state_dict().keys()
    atol = 1e-4 if dtype == "float32" else 0.05 * float(expected.abs().max())
    torch.testing.assert_close(PackedPolicy(loaded)(BATCH).detach(), expected, atol=atol, rtol=0)


def test_adapters_that_did_nothing_leave_the_start_and_that_is_reported(source: ModelSource) -> None:
    model = quantised_model(source, "bfloat16")
    start = content(model.parameters())
    merge(add_adapters(model, LORA, seed=1))
    assert "equal the start's" in rounding_warnings(start, model)[0]


class Losses:
    """Notes the losses, and ends the run, as a kill would, after a step."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.losses = last, []

    def resume_at(self, step: int) -> None:
        pass

    def log(self, step: int, **values: float) -> None:
        self.losses.append(values["loss"])
        if step == self.last:
            raise InterruptedError

    def progress(self, done: int, total: int, **values: float) -> None:
        pass


@pytest.mark.parametrize("dtype, zero_stage", [("bfloat16", 1), ("float32", 2)])
def test_training_lowers_the_loss_and_a_killed_run_resumes_bit_for_bit(
    source: ModelSource, dtype: str, zero_stage: int, tmp_path: Path
) -> None:
    start_ranks()
    settings = replace(SETTINGS, dtype=dtype, zero_stage=zero_stage, epochs=2, checkpoint_every=3)
    reference = score(PackedPolicy(quantised_model(source, dtype)).eval(), TREES, BRANCHES, 512)

    def run(folder: Path, follower: Losses) -> dict[str, Tensor]:
        model = quantised_model(source, dtype)
        adapters = add_adapters(model, LORA, seed=1)
        engine = open_engine(PackedPolicy(model), replace(settings, activation_checkpointing=dtype == "bfloat16"))
        train(engine, OBJECTIVES["dpo"](), Examples(TREES, reference, []), settings, 5, folder, follower)
        merge(adapters)
        return dict(model.state_dict())

    whole = run(tmp_path / "whole", followed := Losses())
    assert followed.losses[0] == pytest.approx(0.6931, abs=2e-3), "the policy is not the reference at step 0"
    assert len(followed.losses) == 8 and followed.losses[-1] < 0.66
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", Losses(last=5))
    (part,) = (tmp_path / "cut").glob("step-000003/part-*")
    assert all("lora_" in name for name in load_file(part)), "the frozen weights need no checkpoint"
    resumed = run(tmp_path / "cut", Losses())
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_the_estimate_counts_the_bytes_that_the_weights_take(tmp_path: Path) -> None:
    shape = Shape(layers=2, hidden=256, intermediate=512, heads=4, kv_heads=2, vocabulary=97, tied=False)
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "tie_word_embeddings": False}
    tiny_model(**sizes).save_pretrained(tmp_path)
    model = quantised_model(ModelSource(str(tmp_path)), "bfloat16")
    held = sum(each.nbytes for each in model.parameters())
    for each in model.parameters():
        if (state := getattr(each, "quant_state", None)) is not None:
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    assert held == pytest.approx(quantised_bytes(shape, "bfloat16"), rel=1e-3)
    assert 8 * NF4 == pytest.approx(4.127, abs=1e-3), "the paper's section 3"


def test_the_reference_is_quantised_where_the_policy_is_and_other_keys_stay() -> None:
    plain, adapters, small = (
        train_stage(compose(["setting=one_gpu", *lora]), "dpo") for lora in ([], ["lora=rank16"], ["lora=qlora"])
    )
    references = [stage.inputs["reference"] for stage in (plain, adapters, small)]
    assert references[0].key == references[1].key != references[2].key
    assert references[2].settings["quantization"] == small.settings["lora"]["quantization"] == "nf4"
    assert "quantization" not in adapters.settings["lora"] and "quantization" not in references[0].settings


def test_what_cannot_work_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, source: ModelSource, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="nf4 does not work with train.zero_stage=3, which .*; use 1 or 2"):
        compose(["setting=one_gpu", "lora=qlora", "train.zero_stage=3"])
    with pytest.raises(ValueError, match="nf4 requires reference.dtype=bfloat16: policy and reference are"):
        compose(["setting=one_gpu", "lora=qlora", "reference.dtype=float32"])
    with pytest.raises(ValueError, match="lora.quantization=.*int3.* must be none or nf4"):
        compose(["setting=one_gpu", "lora=qlora", "lora.quantization=int3"])
    tiny_model(hidden_size=96).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="multiples of 64, and model.layers.0.self_attn.q_proj of llama has 96 inputs"):
        quantised_model(ModelSource(str(tmp_path)))
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs its package: make setup EXTRAS=dev,bitsandbytes, or use lora=rank16$"):
        quantised_model(source)
