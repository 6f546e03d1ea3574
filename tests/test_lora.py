"""LoRA: with adapters off the model is the reference, merging keeps the adapted model, and losses do not change."""

import copy

import pytest
import torch

from focalpo.config.compose import compose
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.lora import add_adapters, merge
from focalpo.training.objective import OBJECTIVES, Logps
from focalpo.training.packing import pack
from focalpo.training.settings import LoraSettings
from tests.tiny import random_trees, tiny_model

SETTINGS = LoraSettings(rank=4, alpha=8, targets=["q_proj", "v_proj", "gate_proj", "down_proj"])
BATCH = pack(random_trees(5), ("chosen", "rejected"))


def adapted(architecture: str = "llama", seed: int = 1):
    """A policy with adapters that are no longer zero, the handle on them, and the log-probs of the bare model."""
    model = tiny_model(architecture)
    bare = PackedPolicy(copy.deepcopy(model))(BATCH).detach()
    adapters = add_adapters(model, SETTINGS, seed)
    return PackedPolicy(model), adapters, bare


def moved(policy: PackedPolicy) -> None:
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_with_its_adapters_off_the_adapted_model_is_the_reference(architecture: str) -> None:
    policy, adapters, bare = adapted(architecture)
    moved(policy)
    assert (policy(BATCH) - bare).abs().min() > 1e-2
    adapters.disable_adapter_layers()
    assert torch.equal(policy(BATCH), bare)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_a_merged_model_is_the_adapted_one_and_has_the_names_of_the_bare_one(architecture: str) -> None:
    policy, adapters, _ = adapted(architecture)
    moved(policy)
    expected = policy(BATCH).detach()
    merge(adapters)
    torch.testing.assert_close(policy(BATCH), expected, atol=1e-4, rtol=0)
    assert policy.model.state_dict().keys() == tiny_model(architecture).state_dict().keys()


@pytest.mark.parametrize("name", ["dpo", "focalpo", "ipo", "simpo", "rdpo"])
def test_at_step_0_every_loss_is_the_loss_of_the_full_model(name: str) -> None:
    policy, _, bare = adapted()
    objective = OBJECTIVES[name]()
    lengths = {branch: torch.full((5,), 7.0) for branch in objective.branches}
    reference = {branch: bare[:, place] for place, branch in enumerate(objective.branches)}

    def loss(found: torch.Tensor) -> torch.Tensor:
        logps = {branch: found[:, place] for place, branch in enumerate(objective.branches)}
        return objective(Logps(logps, reference, lengths, {})).loss

    assert torch.equal(loss(policy(BATCH)), loss(bare))


def test_only_adapters_are_trained_and_their_gradient_follows_from_the_full_one() -> None:
    policy, _, _ = adapted()
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {name.split(".")[-4] for name in trained} == set(SETTINGS.targets)
    policy(BATCH).sum().backward()
    full = PackedPolicy(tiny_model())
    full(BATCH).sum().backward()
    weight = dict(full.named_parameters())["model.model.layers.0.self_attn.q_proj.weight"].grad
    layer = policy.model.model.layers[0].self_attn.q_proj
    # d loss / d B = (alpha / rank) * d loss / d W * A^T, where B = 0
    expected = SETTINGS.alpha / SETTINGS.rank * weight @ layer.lora_A["default"].weight.T
    torch.testing.assert_close(layer.lora_B["default"].weight.grad, expected, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_adapters_and_another_seed_does_not() -> None:
    weights = [adapted(seed=seed)[0].state_dict() for seed in (1, 1, 2)]
    name = next(name for name in weights[0] if "lora_A" in name)
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_a_missing_target_is_named() -> None:
    with pytest.raises(ValueError, match="lora.targets: llama has no module c_attn; correct the name"):
        add_adapters(tiny_model(), LoraSettings(4, 8, ["q_proj", "c_attn"]), seed=1)


def test_invalid_lora_settings_are_refused_before_anything_starts() -> None:
    assert compose(["setting=mistral_base", "lora=rank16"]).train.zero_stage == 3
    with pytest.raises(ValueError, match="lora.rank=0 must be >= 1"):
        compose(["setting=one_gpu", "lora=rank16", "lora.rank=0"])
