"""Tiny random models and trees, and settings to train them, that the tests share."""

import random

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config

from focalpo.data.tokens import Tree
from focalpo.training.settings import TrainSettings

VOCABULARY = 97
ARCHITECTURES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
SETTINGS = TrainSettings(
    learning_rate=1e-2,
    global_batch=4,
    epochs=1,
    max_steps=None,
    warmup_ratio=0.25,
    weight_decay=0.1,
    adam_beta2=0.99,
    max_grad_norm=1.0,
    dtype="float32",
    zero_stage=0,
    activation_checkpointing=False,
    micro_batch_tokens=1 << 20,
    checkpoint_every=0,
)


def tiny_model(architecture: str = "llama", seed: int = 0, **overrides: object) -> PreTrainedModel:
    """Two layers, grouped-query attention, fp32, weights large enough that log-probs differ visibly."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    config = ARCHITECTURES[architecture](**{**shape, **heads, **overrides})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def random_trees(count: int, seed: int = 0, longest: int = 24, branches: tuple[str, ...] = ("chosen", "rejected")):
    """Trees with ragged lengths from 1 token up."""
    draw = random.Random(seed)

    def ids(longest: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, longest))]

    return [Tree(f"t{place}", ids(longest), {branch: ids(longest) for branch in branches}) for place in range(count)]
