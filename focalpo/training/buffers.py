"""Buffers of a model, such as the rotary table, exactly as an ordinary load computes them.

DeepSpeed's partitioned loading casts every floating-point tensor that is created inside it to the model's dtype, so in
bf16 the rotary frequencies would be rounded: angles off by up to 1.8 rad at position 1,000, in training alone, while
reference, generation and the exported model use fp32.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel


@contextlib.contextmanager
def uncast_buffers() -> Iterator[None]:
    """While open, DeepSpeed's partitioned loading places new tensors on the device, but keeps their dtype; parameters
    still get the model's dtype, from transformers."""
    from deepspeed import zero
    from deepspeed.runtime.zero import DeepSpeedTensorOverride

    partitioning = zero.Init
    zero.Init = partial(partitioning, tensor_overrides=[DeepSpeedTensorOverride.device])
    try:
        yield
    finally:
        zero.Init = partitioning


def computed_buffers(config: PretrainedConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """The buffers by name that a model computes from its configuration, in the dtype of an ordinary load; those of its
    checkpoint are left out."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):  # no memory for the parameters
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    saved = plain.state_dict().keys()
    return {name: value for name, value in plain.named_buffers() if name not in saved}


@torch.no_grad()
def restore_buffers(model: PreTrainedModel) -> None:
    """Set every computed buffer of the model to the value and dtype of an ordinary load."""
    buffers = dict(model.named_buffers())
    for name, value in computed_buffers(model.config, model.dtype).items():
        buffers[name].data = value.to(buffers[name].device)
