"""The process group: who am I, how many are we, and sums over all of us. One process is a group of one.

A rank that waits for another one for ever is found by time: `watch` once, then `alive` at every step.
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


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Elementwise sum over ranks; the input is left alone."""
    total = values.detach().clone()
    if world() > 1:
        dist.all_reduce(total)
    return total


def gather(value: object) -> list:
    """Every rank's value, by rank, on every rank."""
    if world() == 1:
        return [value]
    values: list = [None] * world()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    if world() > 1:
        dist.barrier()


_patience: tuple[float, IO] | None = None


def watch(seconds: float, folder: Path) -> None:
    """From the first `alive` on, end this process when the next one is later than that, and write the stack of each of
    its threads to `folder/stacks-rank-<n>.txt`. Every rank waits for the one that hangs, so all of them write theirs.
    """
    global _patience
    _patience = seconds, (folder / f"stacks-rank-{os.environ.get('RANK', '0')}.txt").open("w")


def alive() -> None:
    """This rank goes on."""
    if _patience is not None:
        seconds, file = _patience
        faulthandler.dump_traceback_later(seconds, file=file, exit=True)


def at_rest() -> None:
    """What follows takes its time: nobody is watched until the next `alive`."""
    if _patience is not None:
        faulthandler.cancel_dump_traceback_later()
