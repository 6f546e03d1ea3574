"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft: the same objectives on far fewer weights.

    W x  ->  W x + (alpha / rank) B A x        B = 0 at the start, so that step 0 is the reference, adapter or not

The reference is the model with its adapters off, which is the model it was before: its log-probs are the reference
stage's, as for any other run. What is exported has the adapters merged in and needs no peft to be loaded.
"""

import torch
from transformers import PreTrainedModel

from focalpo.training.settings import LoraSettings


def add_adapters(model: PreTrainedModel, settings: LoraSettings, seed: int):
    """Put adapters into the model, in place, and freeze everything else; returns peft's handle on them.

    Raises:
        ValueError: when peft is not installed, or a target names no module of the model.
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
    # No dropout: a policy that drops is not the reference at step 0.
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.targets, lora_dropout=0.0, bias="none"
    )
    return LoraModel(model, config, "default")


def merge(adapters) -> None:
    """Add the adapters into the weights they sit beside, in place, and take them out: an ordinary model is left."""
    adapters.merge_and_unload()
