"""Kernels for the operations between matrix products: transformers' own, compiled ones, or Liger's.

Attention and the head are always ours. No choice changes a result beyond rounding.
"""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

import torch
from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl
from transformers import PreTrainedModel


def use_kernels(model: PreTrainedModel, kernels: str) -> None:
    """Install the chosen kernels for the model's norms and gated activations.

    Raises:
        ValueError: when Liger is chosen without a GPU or its package.
    """
    if kernels == "compiled":
        _compile(model)
    elif kernels == "liger":
        _use_liger(model)


def _compile(model: PreTrainedModel) -> None:
    # Per module, leaving out attention, whose shapes change with every micro-batch; dynamic: for any number of tokens.
    for layer in model.base_model.layers:
        for module in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
            module.compile(dynamic=True)


def _use_liger(model: PreTrainedModel) -> None:
    if not torch.cuda.is_available():
        raise ValueError("train.kernels=liger needs a GPU; use plain or compiled")
    if find_spec("liger_kernel") is None:
        raise ValueError("train.kernels=liger needs its package: make setup EXTRAS=dev,liger, or use compiled")
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

    # Its head would build logits that ours avoids; its rotary embedding would patch transformers for every model.
    _apply_liger_kernel_to_instance(
        model=model, rms_norm=True, swiglu=True, rope=False, cross_entropy=False, fused_linear_cross_entropy=False
    )


@contextlib.contextmanager
def flash_attention_3() -> Iterator[None]:
    """While open, torch's flash attention is FlashAttention-3; only Hopper GPUs have it.

    Raises:
        ModuleNotFoundError: without its package, flash_attn_interface.
    """
    activate_flash_attention_impl("FA3")
    try:
        yield
    finally:
        restore_flash_attention_impl()
