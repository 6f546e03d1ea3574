"""AdamW with moments in 8 bit, by bitsandbytes, and what a checkpoint has of them.

A block of 256 elements of a rank's flat share has one scale, so that the moments of a parameter cannot be cut out and
quantised again without a change: they are saved as they are, and a run resumes on as many ranks as it was saved on.
"""

import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from focalpo.training.ranks import rank, world

RAW = "moments"  # the kind of a checkpoint's keys that hold them
STATES = ("state1", "state2", "absmax1", "absmax2")  # bytes of both moments, and the scales of their blocks


def adamw8bit(
    parameters: list[torch.nn.Parameter], learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW whose moments are in 8 bit; those of shares below 4096 elements stay in fp32.

    Raises:
        ValueError: when bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError("train.optimizer=adamw8bit needs its package: make setup EXTRAS=dev,bitsandbytes")
    # Importing it warns that a kernel for 4-bit products, which is not used, is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay)


def in_8_bit(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer is the one that `adamw8bit` makes."""
    return "fused" not in optimizer.defaults


def moments_of(optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> dict[str, Tensor]:
    """Return the moments of this rank's shares as they are: RAW.<rank>.<place of the share>.<state>."""
    return {
        f"{RAW}.{rank()}.{place}.{name}": optimizer.state[weight][name].cpu()
        for place, weight in enumerate(weights)
        for name in STATES
        if name in optimizer.state[weight]
    }


def keep_moments(saved: dict[int, dict[str, Tensor]], key: str, value: Tensor) -> None:
    """Keep a tensor of a checkpoint if this rank saved it; of the others, only that they saved some."""
    saver = int(key.split(".")[1])
    saved.setdefault(saver, {})
    if saver == rank():
        saved[saver][key] = value


@torch.no_grad()
def put_moments(optimizer, weights: list[Tensor], saved: dict[int, dict[str, Tensor]], step: int, path: Path) -> None:
    """Give this rank's shares what `moments_of` returned on it, as `keep_moments` kept it, and Adam's step count.

    Raises:
        ValueError: when they were saved on another number of ranks.
    """
    ranks = len(saved)
    if ranks != world():
        remedy = f"set launch.ranks={ranks}, or delete {path.parent} and run again"
        raise ValueError(f"{path} has moments in 8 bit, which resume on as many ranks as saved them; {remedy}")
    (group,) = optimizer.param_groups
    for place, weight in enumerate(weights):
        group["params"] = [weight]  # as DeepSpeed does for its step
        optimizer.init_state(group, weight, 0, 0)
        state = optimizer.state[weight]
        state["step"] = step
        for name in STATES:
            if name in state:
                state[name].copy_(saved[rank()][f"{RAW}.{rank()}.{place}.{name}"])
    group["params"] = []
