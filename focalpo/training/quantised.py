"""The frozen base of QLoRA (Dettmers et al. 2023, arXiv 2305.14314) in 4 bit, by bitsandbytes.

    NF4       each block of 64 weights has one scale, each weight one of 16 levels between its block's -scale and scale
    scales    8 bit themselves, in blocks of 256: 4.127 bits a weight in all

The layers' linear weights are quantised while they are loaded; embedding, head, norms and biases keep their dtype. A
product dequantises its weight first, so that model and adapters compute in the training's dtype.
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

BLOCK = 64
"""Weights that share a scale."""


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """What `from_pretrained` needs in order to quantise while it loads.

    Raises:
        ValueError: when bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "lora.quantization=nf4 needs its package: make setup EXTRAS=dev,bitsandbytes, or use lora=rank16"
        )
    # Importing it warns on some CPUs that a kernel, which is not used here, is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def is_quantised(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def check_quantised(model: PreTrainedModel) -> None:
    """Check that blocks of weights end with their rows, and let all products be computed in one way.

    On CPUs that multiply bf16, bitsandbytes would repack the weights at the first product without gradient and round to
    bf16 from then on, and the policy at step 0 would not be the reference.

    Raises:
        ValueError: for widths on which bitsandbytes 0.50 dequantises wrongly on a CPU (by 24 % instead of 9 %).
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            if module.in_features % BLOCK:
                raise ValueError(
                    f"lora.quantization=nf4 requires widths that are multiples of {BLOCK}, and {name} of "
                    f"{model.config.model_type} has {module.in_features} inputs; use lora=rank16"
                )
            module.support_avx512bf16_for_cpu = False


def dense(weight: Tensor) -> Tensor:
    """The weight that products use: dequantised if it is in 4 bit, in the dtype that it was loaded in."""
    if getattr(weight, "quant_state", None) is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]  # bitsandbytes' parameter


@torch.no_grad()
def dequantise(model: PreTrainedModel, change: Callable[[str], Tensor | None]) -> None:
    """Make an ordinary model of a quantised one, on the host: a GPU that trained it may have no room for it.

    Args:
        change: what to add to the weight of a module, by its name; the sum is rounded to the weight's dtype once.
    """
    for name, module in list(model.named_modules()):
        if getattr(getattr(module, "weight", None), "quant_state", None) is not None:
            weight = dense(module.weight)
            if (added := change(name)) is not None:
                weight = (weight.float() + added.float()).to(weight.dtype)
            with torch.device("meta"):
                plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight = nn.Parameter(weight.cpu(), requires_grad=False)
            if module.bias is not None:
                plain.bias = nn.Parameter(module.bias.cpu(), requires_grad=False)
            model.set_submodule(name, plain)
    model.hf_quantizer.remove_quantization_config(model)
    model.is_loaded_in_4bit = False
