"""Partitioned loading rounds no buffer, so training sees the rotary table that reference, export and vLLM see."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from focalpo.training.buffers import computed_buffers, restore_buffers
from focalpo.training.engine import open_engine, partitioned_loading, start_ranks
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.model import ModelSource, load_model
from tests.tiny import SETTINGS, tiny_model

SHARDED = replace(SETTINGS, dtype="bfloat16", zero_stage=3)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "llama3": LLAMA3 | {"original_max_position_embeddings": 512},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
}


def same(found: PreTrainedModel, expected: PreTrainedModel) -> None:
    ours, theirs = dict(found.named_buffers()), dict(expected.named_buffers())
    assert ours.keys() == theirs.keys() and theirs
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


@pytest.mark.parametrize("family, rope", [("mistral", "default"), ("qwen2", "yarn"), *(("llama", r) for r in ROPES)])
def test_a_partitioned_load_has_the_buffers_of_an_ordinary_one(family: str, rope: str, tmp_path: Path) -> None:
    tiny_model(family, max_position_embeddings=2048, rope_parameters=ROPES[rope]).save_pretrained(tmp_path)
    source = ModelSource(str(tmp_path))
    expected = load_model(source, "bfloat16")
    assert expected.model.rotary_emb.inv_freq.dtype == torch.float32
    start_ranks()
    with partitioned_loading(SHARDED):
        found = load_model(source, "bfloat16")
    same(found, expected)
    open_engine(PackedPolicy(found), SHARDED)
    same(found, expected)


OTHERS = {
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gemma2": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "phi3": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0},
}


@pytest.mark.parametrize("family", OTHERS)
def test_computed_buffers_are_those_of_an_ordinary_load_in_other_families_too(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **OTHERS[family])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    damaged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name in computed_buffers(damaged.config, torch.bfloat16):
        buffer = dict(damaged.named_buffers())[name]
        buffer.data = torch.zeros_like(buffer, dtype=torch.bfloat16)
    restore_buffers(damaged)
    same(damaged, expected)
