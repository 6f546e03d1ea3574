"""Read safetensors files once for all ranks: of every tensor one rank reads the bytes and sends them to the others.

    round 1    rank 0 reads a, rank 1 reads b    broadcast a, broadcast b
    round 2    rank 0 reads c, rank 1 reads d    broadcast c, broadcast d    ...

A checkpoint of 8B parameters is 96 GB, which eight ranks would otherwise read eight times.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from focalpo.training.ranks import device, gather, rank, world

DTYPES = {"F32": torch.float32, "U8": torch.uint8}
"""What a checkpoint has, by safetensors' names."""


def shared_out(files: Sequence[Path]) -> Sequence[Path]:
    """The files that this rank reads: every file is some rank's, and no file is two ranks'."""
    return files[rank() :: world()]


def read_once(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the files with its name, whole, on this rank's device.

    Every rank must take all of them. A rank holds one tensor that it has read and one that it has received.
    """
    mine = [(path, *described) for path in shared_out(files) for described in _described(path)]
    for sent in zip_longest(*gather(mine)):
        read = None if sent[rank()] is None else _read(*sent[rank()][:2])
        for owner, each in enumerate(sent):
            if each is not None:
                _, name, shape, dtype = each
                yield name, _broadcast(read if owner == rank() else None, owner, shape, dtype)


def _described(path: Path) -> list[tuple[str, list[int], str]]:
    with safe_open(path, "pt") as tensors:  # its header only
        parts = {name: tensors.get_slice(name) for name in tensors.keys()}
        return [(name, part.get_shape(), part.get_dtype()) for name, part in parts.items()]


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as tensors:
        return tensors.get_tensor(name).to(device())


def _broadcast(read: Tensor | None, owner: int, shape: list[int], dtype: str) -> Tensor:
    tensor = torch.empty(shape, dtype=DTYPES[dtype], device=device()) if read is None else read
    if world() > 1:
        dist.broadcast(tensor, owner)
    return tensor
