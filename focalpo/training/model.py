"""Load models and tokenizers from the hub at a pinned revision, or from a stage folder.

`ModelSource` names a model; nothing else in the project knows where weights come from.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from focalpo.data.templates import check_template
from focalpo.training.loading import check_complete, explaining_load
from focalpo.training.quantised import check_quantised, nf4
from focalpo.training.settings import DENSE

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
        ValueError: when the folder or hub id cannot be loaded, or its chat template cannot be used.
    """
    _check_there(source)
    with explaining_load(f"the tokenizer of {_named(source)}"):
        tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision)
    if source.chat_template is not None:
        tokenizer.chat_template = source.chat_template
    check_template(tokenizer)
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


def load_model(
    source: ModelSource, dtype: str, to: torch.device | None = None, quantization: str = DENSE
) -> PreTrainedModel:
    """Load the causal LM with dropout off, weights from safetensors only.

    Args:
        to: where each weight goes as soon as it is read, so that the host never holds the model; by default the host.
            Partitioned loading (ZeRO-3) places the weights itself.
        quantization: `nf4` keeps the layers' linear weights in 4 bit.

    Raises:
        ValueError: when the folder or hub id cannot be loaded, lacks weights, or quantising needs what is not there.
    """
    _check_there(source)
    place = {} if to is None or is_deepspeed_zero3_enabled() else {"device_map": {"": to}}
    if quantization != DENSE:
        place |= {"quantization_config": nf4(DTYPES[dtype])}
    with explaining_load(_named(source)):
        model, found = AutoModelForCausalLM.from_pretrained(
            source.path,
            revision=source.revision,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            output_loading_info=True,
            **place,
        )
    check_complete(_named(source), found["missing_keys"])
    keep_cap(model)
    _disable_dropout(model)
    if quantization != DENSE:
        check_quantised(model)
    return model


def keep_cap(model: PreTrainedModel) -> None:
    """Choose transformers' eager attention for soft-capped scores (Gemma-2): its default would leave the cap out."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


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


def _check_there(source: ModelSource) -> None:
    """Tell a folder that is not there from a hub id: transformers would call its path a malformed id."""
    if source.path.startswith(("/", "./", "../", "~")) and not Path(source.path).is_dir():
        raise ValueError(
            f"cannot load {source.path}: there is no such folder; correct the path, or run its stage first"
        )


def _named(source: ModelSource) -> str:
    return f"{source.path} at revision {source.revision}" if source.revision else source.path
