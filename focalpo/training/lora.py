"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft: the same objectives, far fewer trained weights.

    W x  ->  W x + (alpha / rank) B A x        B = 0 at the start, so that the policy is the reference at step 0

The reference is the model with its adapters off, which is the original model: its log-probs come from the reference
stage, as in any other run. The exported model has the adapters merged and loads without peft. Over a base in 4 bit
(QLoRA) the reference stage quantises the same weights in the same way, and what is merged is what they stand for.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from focalpo.training.quantised import dequantise, is_quantised
from focalpo.training.ranks import rank
from focalpo.training.settings import LoraSettings

ADAPTER = "default"
"""peft's name of the only one that there is."""


def add_adapters(model: PreTrainedModel, settings: LoraSettings, seed: int):
    """Add adapters to the model in place, freeze everything else, and return peft's handle on them.

    Raises:
        ValueError: when peft is not installed, or a target is not a module of the model.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ValueError(f"peft cannot be imported ({error}); install the lora extra, or leave lora out") from error
    modules = [name.rpartition(".")[2] for name, _ in model.named_modules()]
    missing = [target for target in settings.targets if target not in modules]
    if missing:
        raise ValueError(
            f"lora.targets: {model.config.model_type} has no module {', '.join(missing)}; correct the name"
        )
    torch.manual_seed(seed)
    # No dropout: with it, the policy is not the reference at step 0.
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.targets, lora_dropout=0.0, bias="none"
    )
    return LoraModel(model, config, ADAPTER)


def merge(adapters) -> None:
    """Merge the adapters into the model's weights in place and remove them, which leaves an ordinary model.

    Every rank must call it. Under ZeRO-3 a change of gathered weights is kept only if their gathering says so. A
    quantised model becomes an ordinary one on rank 0 only, which exports it: its weights take four times the memory.
    """
    from deepspeed import zero
    from peft.tuners.lora import LoraLayer

    if is_quantised(adapters.model):
        layers: dict[str, Any] = {
            name: each for name, each in adapters.model.named_modules() if isinstance(each, LoraLayer)
        }
        adapters.unload()
        if rank() == 0:
            dequantise(adapters.model, lambda name: layers[name].get_delta_weight(ADAPTER) if name in layers else None)
        return
    for layer in adapters.modules():
        if isinstance(layer, LoraLayer):
            parameters = list(layer.parameters())  # type: ignore[attr-defined]  # a mixin of modules
            with zero.GatheredParameters(parameters, modifier_rank=0, enabled=hasattr(parameters[0], "ds_id")):
                layer.merge()
    adapters.unload()
