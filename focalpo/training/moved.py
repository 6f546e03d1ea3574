"""Whether training changed the weights: a run that did nothing must not become a result.

fp32 weights of the optimizer    before = after    refused: every learning rate, or every gradient, was 0
weights in the dtype of export   before = after    a warning: the steps were too small for bfloat16
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from focalpo.training.checkpoint import fp32_weights
from focalpo.training.quantised import dense
from focalpo.training.ranks import device, sum_over_ranks

AT_ONCE = 1 << 26  # elements copied to the host at a time


def content(weights: Iterable[Tensor]) -> str:
    """sha256 of this rank's share of the weights, bit for bit; nothing is gathered."""
    found = hashlib.sha256()
    for weight in weights:
        share = getattr(weight, "ds_tensor", weight)  # ZeRO-3 partitions the parameter itself
        for piece in dense(share).detach().flatten().split(AT_ONCE):
            found.update(piece.cpu().view(torch.uint8).numpy())
    return found.hexdigest()


def rounding_warnings(before: str, model: torch.nn.Module) -> list[str]:
    """Return a warning when the weights to export still have the content `before`; every rank must call it."""
    if _changed(before, content(model.parameters())):
        return []
    return [
        "the exported weights equal the start's: training moved the fp32 weights by less than their 16-bit copies can "
        "show, so this row's answers are the start's"
    ]


@contextmanager
def must_move(engine) -> Iterator[None]:
    """Train inside the block, from the start's weights or a checkpoint; every rank must enter it.

    Raises:
        ValueError: when the fp32 weights after the block equal those before it on all ranks.
    """
    before = content(fp32_weights(engine))
    yield
    if not _changed(before, content(fp32_weights(engine))):
        raise ValueError(
            "training changed no weight: every learning rate or every gradient was 0 (metrics.jsonl has both); "
            "raise train.learning_rate, take more steps (train.epochs, train.max_steps), or change the objective"
        )


def _changed(before: str, after: str) -> bool:
    """Whether the share of any rank changed."""
    return bool(sum_over_ranks(torch.tensor(float(before != after), device=device())) > 0)
