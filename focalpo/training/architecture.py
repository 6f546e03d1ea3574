"""What of a model's architecture lies outside its layers' own code, read from its configuration: how its logits are
rescaled, and which keys its layers see. What packed training does not compute is refused by name."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PretrainedConfig

# Model types that multiply or divide their logits, and by which setting: the same name can mean either.
MULTIPLIES = {"cohere": "logit_scale", "cohere2": "logit_scale", "hyperclovax": "logits_scaling"}
DIVIDES = {"granite": "logits_scaling"}
RESCALES = (
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
    "logits_mup_width_multiplier",
    "logits_soft_cap",
    "output_logit_soft_cap",
)
KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Rescaling:
    """Logits are cap tanh(factor z / cap) of the head's products z (Gemma-2, arXiv 2408.00118, 2), or factor z."""

    factor: float = 1.0
    cap: float | None = None

    def logits_(self, products: Tensor) -> Tensor:
        """The logits, in place."""
        if self.factor != 1:
            products.mul_(self.factor)
        return products if self.cap is None else products.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: Tensor) -> Tensor | float | None:
        """d logits / d products: factor (1 - tanh^2); None where it is 1 everywhere."""
        if self.cap is None:
            return None if self.factor == 1 else self.factor
        return logits.div(self.cap).square_().neg_().add_(1).mul_(self.factor)


def rescaling(config: PretrainedConfig) -> Rescaling:
    """How the logits differ from `lm_head(hidden)`.

    Raises:
        ValueError: when the model rescales them in a way that is not known here.
    """
    kind = config.model_type
    known = MULTIPLIES.get(kind) or DIVIDES.get(kind)
    for name in RESCALES:
        if name != known and getattr(config, name, None) is not None:
            raise ValueError(
                f"{kind} rescales its logits ({name}) in a way that packed training does not know; choose another model"
            )
    factor = 1.0 if known is None else float(getattr(config, known))
    return Rescaling(1 / factor if kind in DIVIDES else factor, getattr(config, "final_logit_softcapping", None))


def sliding_window(config: PretrainedConfig) -> int | None:
    """How many keys a query sees in the layers that do not see all; None: all layers see all.

    Raises:
        ValueError: when a layer is neither full nor sliding attention.
    """
    kinds = getattr(config, "layer_types", None)
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(
                f"{config.model_type} has layers of {kind}, which cannot share a packed row; choose another model"
            )
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return getattr(config, "sliding_window", None) if slides else None
