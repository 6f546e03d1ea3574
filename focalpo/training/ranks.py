"""The process group: who am I, how many are we, and sums over all of us. One process is a group of one."""

import os

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
