"""Which kernels compute what lies between matrix products: transformers' own, compiled ones, or Liger's.

Attention and the head are ours in any case. No choice changes a result beyond rounding.
"""

from importlib.util import find_spec

import torch
from transformers import PreTrainedModel


def use_kernels(model: PreTrainedModel, kernels: str) -> None:
    """Give the model's norms and gated activations the kernels asked for.

    Raises:
        ValueError: for Liger's without a GPU or its package.
    """
    if kernels == "compiled":
        _compile(model)
    elif kernels == "liger":
        _use_liger(model)


def _compile(model: PreTrainedModel) -> None:
    # Module by module, for any number of tokens: attention's shapes change with every micro-batch.
    for layer in model.base_model.layers:
        for module in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
            module.compile(dynamic=True)


def _use_liger(model: PreTrainedModel) -> None:
    if not torch.cuda.is_available():
        raise ValueError("train.kernels=liger needs a GPU; use plain or compiled")
    if find_spec("liger_kernel") is None:
        raise ValueError("train.kernels=liger needs its package: make setup EXTRAS=dev,liger, or use compiled")
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

    # Its head would build what ours never builds; its rotation would replace transformers' for every model there is.
    _apply_liger_kernel_to_instance(
        model=model, rms_norm=True, swiglu=True, rope=False, cross_entropy=False, fused_linear_cross_entropy=False
    )
