"""Tiny random models of the paper's architectures, with tokenizers and chat templates of the same kind.

A checkpoint has what the hub holds: safetensors, config, generation config, tokenizer. Sizes are small; everything else
is as in the real models: grouped-query attention, untied embeddings, Mistral's sliding window, Llama 3's special tokens
in their order and its two end tokens, and a tokenizer that adds a BOS while the template may already contain one.

One thing is not as in the real models: the unit of their weights, GAIN. The recipes' learning rates, 3e-7 to 1e-6, move
a 7B model over hundreds of steps; here are three. So that these few move the answers, every matrix is GAIN times
smaller and every norm's weight GAIN times larger: the same function, on which the same recipe acts GAIN times as
strongly. All rows of a setting share it: a lost learning rate, a swapped row or a loss that does nothing stays visible,
and no key of the recipe differs from the paper's.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

# As long as the longest pair that a setting allows (data.max_length); vLLM truncates endless answers there.
POSITIONS = 2048
GAIN = 2.0**13
"""The factor between a stand-in's learning rate as configured and as it acts: 5e-7 acts like 4e-3 on weights of 0.1."""
CONSTANT = 2.0  # the first dimension of the residual stream
STOP = 2.5  # by how much the head reads it more for the end of a turn than for other tokens: answers of a few words
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # of 32: the smallest head size that vLLM supports on a CPU
    "num_key_value_heads": 1,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
    "initializer_range": 0.125,  # 1 / sqrt(hidden size): every layer counts, and the answers depend on the prompt
}
LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{place}|>" for place in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
]
# A role name between header tokens, a blank line, the text; BOS is part of the template.
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn.role + '<|end_header_id|>\n\n' + turn.content.strip() + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A checkpoint of this family may carry this template, which must not be used: the configuration sets the template.
INST_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ '[INST] ' + turn.content + ' [/INST]' if turn.role == 'user' "
    "else turn.content + eos_token }}{% endfor %}"
)


def mistral_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """BPE with byte fallback, `<unk> <s> </s>` as 0, 1, 2, and an [INST] template that the base setting replaces."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_], show_progress=False)
    pieces.train_from_iterator([text.replace("\n", " ") for text in texts], trainer)
    learned = pieces_of(pieces)
    return LlamaTokenizer(vocab=learned["vocab"], merges=learned["merges"], chat_template=INST_TEMPLATE)


def llama3_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Byte-level BPE that puts `<|begin_of_text|>` before every text, as the real one does."""
    tokenizer = _byte_level(texts, LLAMA3_SPECIAL)
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, chat_template=LLAMA3_TEMPLATE)


def qwen2_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Byte-level BPE without a BOS, with ChatML turns."""
    tokenizer = _byte_level(texts, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, chat_template=CHATML_TEMPLATE)


def _byte_level(texts: list[str], special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    # After the learned tokens, as in the released vocabularies.
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer


def pieces_of(tokenizer: Tokenizer) -> dict:
    """The vocabulary and merges of a trained BPE tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def mistral_config(tokenizer: PreTrainedTokenizerBase) -> MistralConfig:
    return MistralConfig(**SHAPE, **_tokens(tokenizer), sliding_window=POSITIONS // 2, rope_theta=10000.0)


def llama3_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(**SHAPE, **_tokens(tokenizer), rope_theta=500000.0)


def qwen2_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    return Qwen2Config(**SHAPE | {"tie_word_embeddings": True}, **_tokens(tokenizer))


def _tokens(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }


KINDS: dict[str, tuple[Callable, Callable, list[str]]] = {
    "mistral": (mistral_tokenizer, mistral_config, ["</s>"]),
    "llama3": (llama3_tokenizer, llama3_config, ["<|eot_id|>", "<|end_of_text|>"]),
    "qwen2": (qwen2_tokenizer, qwen2_config, ["<|im_end|>", "<|endoftext|>"]),
}


def write_model(family: str, texts: list[str], folder: Path) -> None:
    """Write a causal LM of a family as the hub would hold it; the name of its folder seeds its weights."""
    make_tokenizer, make_config, ends = KINDS[family]
    tokenizer = make_tokenizer(texts)
    torch.manual_seed(zlib.crc32(folder.name.encode()))
    model = AutoModelForCausalLM.from_config(make_config(tokenizer), dtype=torch.bfloat16)
    stops = [tokenizer.convert_tokens_to_ids(name) for name in ends]
    _make_answers_end(model, stops[0])
    _act_on_small_steps(model)
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=stops)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_reward_model(texts: list[str], folder: Path) -> None:
    """Write a Llama that gives a chat one score, with the tokenizer of the models that it rates."""
    tokenizer = llama3_tokenizer(texts)
    torch.manual_seed(zlib.crc32(folder.name.encode()))
    config = llama3_config(tokenizer)
    config.num_labels, config.pad_token_id = 1, tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_answers_end(model: PreTrainedModel, stop: int) -> None:
    """Make random weights end their answers: a constant first dimension of the residual stream biases the head."""
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        tied = head is embedding
        # A tied head repeats the token it has just read unless the embeddings are small beside what the layers add.
        embedding.normal_(std=0.15 if tied else 0.5)
        if not tied:
            head.normal_(std=0.25)
            head[:, 0] = 0.0
        embedding[:, 0] = CONSTANT
        head[stop, 0] += STOP
        for layer in model.model.layers:  # no layer writes to it
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0


def _act_on_small_steps(model: PreTrainedModel) -> None:
    """Move GAIN from every matrix into the norm that reads or follows it: the same function in a smaller unit.

    What is written to the residual stream may be smaller as a whole, because only norms read it; their epsilon is
    smaller too. GAIN is a power of two, so nothing is rounded.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.div_(GAIN)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.mul_(GAIN)
    model.config.rms_norm_eps /= GAIN**2
