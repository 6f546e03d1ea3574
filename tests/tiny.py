"""Tiny random models and trees, and settings to train them, that the tests share."""

import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from focalpo.data.trees import Tree
from focalpo.training.settings import TrainSettings

VOCABULARY = 97
ARCHITECTURES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
CHATML = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
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


def byte_tokenizer(template: str, **special: str) -> PreTrainedTokenizerFast:
    """One token per byte and the special tokens: every text is its bytes, so ids can be written out by hand."""
    alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


def chatml_tokenizer(bos: str = "<|im_start|>", template: str = CHATML) -> PreTrainedTokenizerFast:
    """ChatML as small released models have it: its marks of turns are tokens, the first of them also the BOS."""
    made = byte_tokenizer(template, bos_token=bos, eos_token="<|im_end|>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return made
