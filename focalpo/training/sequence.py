"""Several ranks compute one micro-batch: each has a part of its rows, and in attention all rows of a part of the heads.

For trees whose activations do not fit one GPU (DeepSpeed-Ulysses, arXiv 2309.14509). All other operations treat each
row for itself, so that a rank's gradient is that of its own rows, and the sum over ranks is the micro-batch's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from focalpo.training.packing import MicroBatch, Part
from focalpo.training.ranks import rank, world


def part_of(batch: MicroBatch, ranks: int, place: int) -> MicroBatch:
    """The micro-batch with the rows that rank `place` of `ranks` computes; its layout and owners are still the whole's.

    All parts have the same number of rows; the last one is filled up with rows that no other sees.
    """
    if ranks == 1:
        return batch
    whole = batch.tokens.shape[1]
    rows = -(-whole // ranks)
    first = place * rows
    tokens, positions = (
        pad(each, (0, rows * ranks - whole))[:, first : first + rows] for each in (batch.tokens, batch.positions)
    )
    (places,) = torch.where((batch.predictors >= first) & (batch.predictors < first + rows))
    return replace(
        batch,
        tokens=tokens,
        positions=positions,
        predictors=batch.predictors[places] - first,
        labels=batch.labels[places],
        part=Part(ranks, whole, places),
    )


def exchanging(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor, part: Part
) -> Tensor:
    """Attention of all rows, of which this rank has a part: query [heads, rows, d], key and value [kv_heads, rows, d]
    -> [rows, heads, d].

    Args:
        attend: attention of all T rows, [heads, T, d] and [kv_heads, T, d] -> [T, heads, d]; called with a part of the
            heads.

    Raises:
        ValueError: when the heads cannot be dealt to the ranks evenly.
    """
    from deepspeed.sequence.layer import DistributedAttention

    if key.shape[0] % part.ranks:
        raise ValueError(
            f"train.sequence_ranks={part.ranks} does not divide the model's {key.shape[0]} heads of keys and values; "
            "lower it to a number that does"
        )

    def of_heads(*states: Tensor) -> Tensor:  # [1, filled rows, heads of this rank, d]
        out = attend(*(each[0, : part.whole].transpose(0, 1) for each in states))
        return pad(out, (0, 0, 0, 0, 0, states[0].shape[1] - part.whole))[None]

    exchange = DistributedAttention(of_heads, _group(part.ranks), scatter_idx=2, gather_idx=1)
    return exchange(*(each.transpose(0, 1)[None] for each in (query, key, value)), 0)[0]


def joined(values: Tensor, part: Part, count: int) -> Tensor:
    """The values [count] of all response tokens, of which this rank has those at `part.places`; on every rank."""
    return _Sum.apply(values.new_zeros(count).index_copy(0, part.places, values), part.ranks)


class _Sum(torch.autograd.Function):
    """A sum over ranks that compute the same loss of it: the gradient of each one's summand is the sum's, unchanged."""

    @staticmethod
    def forward(ctx, values: Tensor, ranks: int) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, group=_group(ranks))
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@cache
def _group(ranks: int) -> dist.ProcessGroup:
    """The group of the ranks that share this rank's micro-batches; every rank must call it, for it makes all groups."""
    groups = [dist.new_group(range(first, first + ranks)) for first in range(0, world(), ranks)]
    return groups[rank() // ranks]
