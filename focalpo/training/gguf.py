"""Read a chat model from a GGUF file, the format of llama.cpp, into the classes that train and generate.

transformers reads weights, tokenizer and template, but three things need care: such a model refuses to be saved, absent
tensors are filled with random numbers, and the rule that splits text into words before byte-pair encoding is not read.
"""

from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from focalpo.training.model import ModelSource, load_model, load_tokenizer
from focalpo.training.package import Package

# `tokenizer.ggml.pre` -> the rule. smollm: digits one by one, then as GPT-2 (llama.cpp, llama-vocab.cpp); without it
# "\n\n1." becomes other tokens than those that the model was trained on.
WORDS = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}
SAMPLE = "Please list 2 reasons:\n\n1. It's 15% cheaper  (since 2024).\n\n\t2. Ünïcode works: 你好 😀"


@dataclass(frozen=True, slots=True)
class Contents:
    """A model in fp32 with its tokenizer, the number of tensors by type of quantisation, and the licence it states."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tensors: dict[str, int]
    licence: str


def read_gguf(path: Path) -> Contents:
    """Read a GGUF file.

    Raises:
        ValueError: when gguf is not installed, tensors are absent or left over, or the tokenizer is of an unknown kind.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError("gguf is not installed; run `make setup`, or install the extra laptop") from error
    reader = GGUFReader(path)
    tensors = dict(Counter(tensor.tensor_type.name for tensor in reader.tensors).most_common())
    licence = _text(reader, "general.license") or "unknown"
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    words = _text(reader, "tokenizer.ggml.pre")
    if words not in WORDS:
        raise ValueError(f"{path.name}: tokenizer.ggml.pre={words!r} is unknown; add its rule to {__name__}.WORDS")
    tokenizer.backend_tokenizer.pre_tokenizer = WORDS[words]
    model = _model(path)
    tokenizer.model_max_length = model.config.max_position_embeddings
    return Contents(model, tokenizer, tensors, licence)


def check_saved(folder: Path, contents: Contents) -> None:
    """Compare a folder that was written from the contents with them: logits and token ids are equal, bit for bit.

    Raises:
        ValueError: when they are not.
    """
    tokenizer = load_tokenizer(ModelSource(str(folder)))
    ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    same_ids = ids == contents.tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    if not same_ids or tokenizer.decode(ids) != SAMPLE:
        raise ValueError(f"the tokenizer in {folder} is not the one that was saved; run the same command again")
    row = torch.tensor([ids])
    with torch.inference_mode():
        same = torch.equal(load_model(ModelSource(str(folder)), "float32")(row).logits, contents.model(row).logits)
    if not same:
        raise ValueError(f"the weights in {folder} are not those that were saved; run the same command again")


def _model(path: Path) -> PreTrainedModel:
    """The weights in a model of the ordinary kind, which can be saved."""
    with redirect_stderr(StringIO()):  # a progress bar that transformers does not turn off with its others
        read, loading = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
    wrong = {name: sorted(map(str, keys)) for name, keys in loading.items() if keys}
    if wrong:
        raise ValueError(f"{path.name} does not fill its architecture ({wrong}); get the whole file")
    values = read.config.to_dict()
    del values["quantization_config"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.float32).eval()
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return model


def _text(reader, name: str) -> str | None:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def conversion_card(name: str, package: Package, contents: Contents) -> str:
    """The model card of a converted checkpoint: its origin, its license, and that its weights were quantised."""
    types = ", ".join(f"{count} {name}" for name, count in contents.tensors.items())
    return f"""---
library_name: transformers
license: {contents.licence}
---
# {name}

Converted by the FocalPO reproduction from `{package.file}` of the package
`{package.requirement}`, sha256 `{package.file_sha256}`.
License: {contents.licence}, as the file states.

**The weights were quantised**: {types} tensors (a type's first number is its bits per weight). They are
stored as fp32, but their values are the rounded ones, so that answers and log-probs differ a little from those of the
released full-precision checkpoint.
"""
