"""Load models and tokenizers from the hub at a pinned revision, or from a stage folder.

`ModelSource` names a model; nothing else in the project knows where weights come from.
"""

from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A Hugging Face id or folder, its revision (hub only), a chat template (Jinja text) that replaces the tokenizer's,
    and the tokens that end a turn (empty: the tokenizer's EOS)."""

    path: str
    revision: str | None = None
    chat_template: str | None = None
    stop_tokens: tuple[str, ...] = ()


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer with the chat template that training and generation share.

    Raises:
        ValueError: when the folder or hub id cannot be loaded, or has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision)
    except OSError as error:
        raise ValueError(_load_error(source, error)) from error
    if source.chat_template is not None:
        tokenizer.chat_template = source.chat_template
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError(f"tokenizer of {source.path} has no chat template; set model.chat_template to a Jinja file")
    return tokenizer


def stop_ids(source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the tokens that end the assistant's turn.

    Raises:
        ValueError: when a stop token is not in the vocabulary.
    """
    names = source.stop_tokens or (tokenizer.eos_token,)
    # Looked up by name: a missing token must not become the unknown token, which in Qwen2 ends turns as well.
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name not in vocabulary:
            raise ValueError(f"stop token {name!r} is not in the vocabulary of {source.path}; fix model.stop_tokens")
    return [vocabulary[name] for name in names]


def load_model(source: ModelSource, dtype: str) -> PreTrainedModel:
    """Load the causal LM with dropout off, weights from safetensors only.

    Raises:
        ValueError: when the folder or hub id cannot be loaded.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.path, revision=source.revision, dtype=DTYPES[dtype], use_safetensors=True
        )
    except OSError as error:
        raise ValueError(_load_error(source, error)) from error
    _disable_dropout(model)
    return model


def generation_config(tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> GenerationConfig:
    """Return an export's generation config: where to stop, nothing about sampling."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=stops, pad_token_id=pad)


def _disable_dropout(model: PreTrainedModel) -> None:
    # With dropout, the policy is not the reference at step 0, and every invariance that the tests check fails.
    for name in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _load_error(source: ModelSource, error: OSError) -> str:
    where = f"{source.path} at revision {source.revision}" if source.revision else source.path
    return f"cannot load {where}: {str(error).splitlines()[0]}; check the id and hub access, or run its stage first"
