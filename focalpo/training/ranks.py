"""The process group: rank, world size and collectives. A single process is a group of one.

A rank that hangs is detected by a timeout: call `watch` once, then `alive` at every step.
"""

import faulthandler
import os
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def sent(values: torch.Tensor, to: torch.device) -> torch.Tensor:
    """The tensor of the host on a device, without waiting: from memory that is not pinned, a copy to a GPU would wait
    for all that the GPU still computes."""
    return values.pin_memory().to(to, non_blocking=True) if to.type == "cuda" else values.to(to)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Elementwise sum over ranks; the input is not modified."""
    total = values.detach().clone()
    if world() > 1:
        dist.all_reduce(total)
    return total


def gather(value: object) -> list:
    """Return every rank's value, in rank order, on every rank."""
    if world() == 1:
        return [value]
    values: list = [None] * world()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    if world() > 1:
        dist.barrier()


_timeout: tuple[float, IO] | None = None


def watch(seconds: float, folder: Path) -> None:
    """End this process when an `alive` is followed by no other within `seconds`, after writing the stacks of all its
    threads to `folder/stacks-rank-<n>.txt`. Every rank waits for the one that hangs, so all of them write theirs.
    """
    global _timeout
    _timeout = seconds, (folder / f"stacks-rank-{os.environ.get('RANK', '0')}.txt").open("w")


def alive() -> None:
    """Report that this rank makes progress, which restarts its timeout."""
    if _timeout is not None:
        seconds, file = _timeout
        faulthandler.dump_traceback_later(seconds, file=file, exit=True)


def at_rest() -> None:
    """Suspend the timeout until the next `alive`, before work that may take long."""
    if _timeout is not None:
        faulthandler.cancel_dump_traceback_later()
