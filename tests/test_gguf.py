"""Weights, tokenizer and template of a GGUF file arrive as they are in it: worked out by hand on a tiny file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType, quants
from transformers import AutoModelForCausalLM, PreTrainedModel

from focalpo.training.checkpoint import write_folder
from focalpo.training.gguf import check_saved, read_gguf
from focalpo.training.model import ModelSource, load_model, load_tokenizer
from tests.tiny import tiny_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ċ Ċ", "Ġ Ġ", "1 2", "h e"]
HEADS, KV_HEADS = 4, 2


def byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE (GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    characters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


TOKENS = [*SPECIAL, *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys in llama.cpp's order: pairs that are rotated together are neighbours."""
    out, width = weight.shape
    return weight.view(heads, 2, out // heads // 2, width).transpose(1, 2).reshape(out, width)


def tensors_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = model.state_dict()
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    for layer in range(model.config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                weight = interleaved(weight, HEADS if ours == "attn_q" else KV_HEADS)
            found[f"blk.{layer}.{ours}.weight"] = weight
    return found


def write_gguf(path: Path, tensors: dict[str, torch.Tensor], types: dict[str, Type], words: str = "smollm") -> Path:
    """A Llama as llama.cpp writes it, with the named tensors quantised and the others in fp32."""
    writer = GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, weight in tensors.items():
        kind = types.get(name, Type.F32)
        writer.add_tensor(name, quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Q4_1: blocks of 32 values as a scale and a minimum in fp16 and 16 bytes, low halves first."""
    raw = quants.quantize(weight.numpy(), Type.Q4_1).reshape(-1, 20)
    values = []
    for block in raw:
        scale, least = (float(half) for half in block[:4].view(np.float16))
        halves = [int(byte) & 15 for byte in block[4:]] + [int(byte) >> 4 for byte in block[4:]]
        values.append([np.float32(scale) * np.float32(half) + np.float32(least) for half in halves])
    return torch.tensor(np.array(values, np.float32)).view(weight.shape)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama", vocab_size=len(TOKENS), tie_word_embeddings=True).eval()


def test_a_model_survives_the_file_and_the_folder_with_equal_logits(model: PreTrainedModel, tmp_path: Path) -> None:
    contents = read_gguf(write_gguf(tmp_path / "tiny.gguf", tensors_of(model), {}))
    assert (contents.tensors, contents.licence) == ({"F32": 20}, "mit")
    write_folder(contents.model, contents.model.state_dict(), contents.tokenizer, tmp_path / "model", "a card")
    check_saved(tmp_path / "model", contents)
    source = ModelSource(str(tmp_path / "model"))
    row = torch.arange(24)[None]
    with torch.inference_mode():
        loaded, again = load_model(source, "float32"), AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert torch.equal(loaded(row).logits, model(row).logits)
    assert again.config.tie_word_embeddings and not hasattr(again.config, "quantization_config")
    assert again.dtype == torch.float32
    tokenizer = load_tokenizer(source)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template) == (*SPECIAL[1:], TEMPLATE)
    assert tokenizer.model_max_length == 64


def test_four_bits_become_the_values_that_they_stand_for(model: PreTrainedModel, tmp_path: Path) -> None:
    tensors = tensors_of(model)
    quantised = {"blk.1.ffn_down.weight": Type.Q4_1, "blk.0.attn_v.weight": Type.Q4_1}
    contents = read_gguf(write_gguf(tmp_path / "tiny.gguf", tensors, quantised))
    assert contents.tensors == {"F32": 18, "Q4_1": 2}
    state = contents.model.state_dict()
    assert torch.equal(state["model.layers.1.mlp.down_proj.weight"], by_hand(tensors["blk.1.ffn_down.weight"]))
    assert torch.equal(state["model.layers.0.self_attn.v_proj.weight"], by_hand(tensors["blk.0.attn_v.weight"]))
    assert not torch.equal(state["model.layers.1.mlp.down_proj.weight"], tensors["blk.1.ffn_down.weight"])
    assert torch.equal(state["model.layers.0.mlp.down_proj.weight"], tensors["blk.0.ffn_down.weight"])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("he12", ["he", "1", "2"]),  # each digit is a word, so that no merge joins two
        ("he\n\n1.", ["he", "ĊĊ", "1", "."]),  # cut before digits first: the blank line stays one token
        ("a  1", ["a", "ĠĠ", "1"]),
        ("a  h", ["a", "Ġ", "Ġ", "h"]),  # elsewhere the last space belongs to the next word
        ("<|im_end|>\n", ["<|im_end|>", "Ċ"]),
    ],
)
def test_words_are_split_as_in_training_the_model(
    model: PreTrainedModel, tmp_path: Path, text: str, tokens: list[str]
) -> None:
    contents = read_gguf(write_gguf(tmp_path / "tiny.gguf", tensors_of(model), {}))
    assert contents.tokenizer.tokenize(text) == tokens


@pytest.mark.parametrize("words", ["gpt-2", "llama-bpe"])
def test_a_tokenizer_of_an_unknown_kind_is_refused(model: PreTrainedModel, tmp_path: Path, words: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tensors_of(model), {}, words)
    with pytest.raises(ValueError, match=f"tiny.gguf: tokenizer.ggml.pre='{words}' is unknown; add its rule to "):
        read_gguf(path)


@pytest.mark.parametrize("absent", ["blk.1.ffn_down.weight", "output_norm.weight", "token_embd.weight"])
def test_an_absent_tensor_is_not_filled_with_random_numbers(
    model: PreTrainedModel, tmp_path: Path, absent: str
) -> None:
    tensors = {name: weight for name, weight in tensors_of(model).items() if name != absent}
    path = write_gguf(tmp_path / "tiny.gguf", tensors, {})
    with pytest.raises(ValueError, match=r"tiny.gguf does not fill its architecture \(.*missing.*\); get the whole"):
        read_gguf(path)


def test_a_folder_that_differs_from_the_file_is_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    contents = read_gguf(write_gguf(tmp_path / "tiny.gguf", tensors_of(model), {}))
    folder = tmp_path / "model"
    changed = contents.model.state_dict() | {"model.norm.weight": contents.model.state_dict()["model.norm.weight"] + 1}
    write_folder(contents.model, changed, contents.tokenizer, folder, "a card")
    with pytest.raises(ValueError, match="the weights in .* are not those that were saved"):
        check_saved(folder, contents)
    write_folder(contents.model, contents.model.state_dict(), contents.tokenizer, folder, "a card")
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="the tokenizer in .* is not the one that was saved"):
        check_saved(folder, contents)
