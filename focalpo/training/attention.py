"""Attention over packed trees, registered with transformers so that its causal LMs run unchanged.

A segment's queries see the keys of its prefix (the prompt; empty for the prompt itself) and, causally, its own keys; in
a layer with a sliding window, the last `window` of them. In half precision on a GPU, one call of torch's
variable-length attention computes all segments. Everywhere else, blocks of similar size share one padded call: a
micro-batch of pocket-sized trees costs one call, and long segments waste nothing. Soft-capped scores (Gemma-2), which
neither of torch's kernels computes, are plain matrix products of the same blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

NAME = "packed_trees"
# A tree of at most this many tokens is one block. A mask hides its branches from each other, which costs less than
# gathering the prompt's keys again for each branch.
SMALL_TREE = 128
# Padding that a group may add, in cells (queries x keys): on a CPU an attention call costs about as much as 2^15 cells.
SMALL_GROUP = 1 << 15
WASTE = 1.25
# What models hand to their attention and this one does not compute: sinks, biases, and selections of keys.
UNKNOWN = ("s_aux", "position_bias", "indices", "block_indices")


@dataclass(frozen=True, slots=True)
class Segment:
    """Query rows [start, end) and prefix rows [prefix_start, prefix_end) of the packed row."""

    start: int
    end: int
    prefix_start: int
    prefix_end: int

    @property
    def queries(self) -> int:
        return self.end - self.start

    @property
    def keys(self) -> int:
        return self.prefix_end - self.prefix_start + self.queries


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks padded to one shape: row numbers of `queries` [n, q] and `keys` [n, k], the mask `visible` [n, 1, q, k]
    (None: causal), which of the n * q results are not padding (`results`), and the packed row of each (`rows`)."""

    queries: Tensor
    keys: Tensor
    visible: Tensor | None
    results: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """All segments for variable-length attention: `key_rows` [K] of the packed row, each segment's prefix and own rows
    in turn, and where each segment's queries and keys start, [segments + 1]."""

    key_rows: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


class Layout:
    """Positions of the segments of every tree; they tile the packed row in order, prompts first.

    The first layer that needs a kernel's inputs builds them on the layout's device; the other layers share them.
    `windows` are the sliding windows that layers have asked for.
    """

    def __init__(self, trees: Sequence[Sequence[Segment]], device: torch.device | str = "cpu") -> None:
        self.trees, self.device = trees, device
        self.windows: set[int | None] = set()
        self._groups: dict[int | None, tuple[Group, ...]] = {}

    def to(self, device: torch.device) -> "Layout":
        return Layout(self.trees, device)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence, prompt and response. On the host, where the GPU need not be waited for."""
        return max(segment.keys for tree in self.trees for segment in tree)

    def narrowed(self, window: int | None) -> int | None:
        """The window if it hides a key of any sequence, else None."""
        self.windows.add(window)
        return window if window is not None and window < self.longest else None

    def groups(self, window: int | None) -> tuple[Group, ...]:
        """Inputs of attention by blocks of similar size, padded."""
        if window not in self._groups:
            self._groups[window] = tuple(_pad(g, self.device, window) for g in _group_by_size(_blocks(self.trees)))
        return self._groups[window]

    @cached_property
    def ragged(self) -> Ragged:
        """Inputs of variable-length attention."""
        segments = [segment for tree in self.trees for segment in tree]
        rows = [np.arange(*span) for s in segments for span in ((s.prefix_start, s.prefix_end), (s.start, s.end))]
        queries, keys = [s.queries for s in segments], [s.keys for s in segments]
        starts = [np.cumsum([0, *lengths], dtype=np.int32) for lengths in (queries, keys)]
        on_device = [torch.from_numpy(array).to(self.device) for array in (np.concatenate(rows), *starts)]
        return Ragged(on_device[0], on_device[1], on_device[2], max(queries), max(keys))


Block = Sequence[Segment]


def _blocks(trees: Sequence[Sequence[Segment]]) -> list[Block]:
    """Units of computation: a small tree as a whole, under a mask; a large tree segment by segment."""
    whole = [sum(segment.queries for segment in tree) <= SMALL_TREE for tree in trees]
    return [
        block for tree, small in zip(trees, whole, strict=True) for block in ([tree] if small else [[s] for s in tree])
    ]


def _size(block: Block) -> tuple[int, int]:
    """Number of keys (the first segment's prefix and all rows) and of queries (all rows) of a block."""
    queries = sum(segment.queries for segment in block)
    return block[0].keys - block[0].queries + queries, queries


def _group_by_size(blocks: Sequence[Block]) -> list[list[Block]]:
    """Group blocks, longest keys first, so that the padded size of a group stays near its real size."""
    groups: list[list[Block]] = []
    width = depth = cells = 0
    for block in sorted(blocks, key=lambda block: (*(-n for n in _size(block)), block[0].start)):
        keys, queries = _size(block)
        if groups:
            padded = (len(groups[-1]) + 1) * max(width, queries) * depth
            if padded - cells - queries * keys <= SMALL_GROUP or padded <= WASTE * (cells + queries * keys):
                groups[-1].append(block)
                width, cells = max(width, queries), cells + queries * keys
                continue
        groups.append([block])
        width, depth, cells = queries, keys, queries * keys
    return groups


def _pad(group: list[Block], device: torch.device | str, window: int | None) -> Group:
    depth, width = (max(sizes) for sizes in zip(*map(_size, group), strict=True))
    queries, keys = np.zeros((len(group), width), np.int64), np.full((len(group), depth), -1)
    start, prefix_start, prefix_end = (np.full((len(group), width), -1) for _ in range(3))
    for place, block in enumerate(group):
        rows = np.arange(block[0].start, block[-1].end)
        own = np.repeat([(s.start, s.prefix_start, s.prefix_end) for s in block], [s.queries for s in block], axis=0)
        queries[place, : len(rows)] = rows
        start[place, : len(rows)], prefix_start[place, : len(rows)], prefix_end[place, : len(rows)] = own.T
        seen = np.concatenate([np.arange(block[0].prefix_start, block[0].prefix_end), rows])
        keys[place, : len(seen)] = seen
    real = start >= 0
    k = keys[:, None, :]
    prefix = (k >= prefix_start[..., None]) & (k < prefix_end[..., None])
    visible = prefix | ((k >= start[..., None]) & (k <= queries[..., None]))
    if window is not None:
        # In the packed row other branches may lie between a prefix and its segment: count from the segment's start.
        gap = np.where(prefix, (start - prefix_end)[..., None], 0)
        visible &= queries[..., None] - k - gap < window
    visible |= ~real[..., None]  # a padded query sees every key: with none, its softmax would be NaN
    plain = window is None and len(group) == 1 and len(group[0]) == 1 and group[0][0].keys == group[0][0].queries
    arrays = (queries, keys.clip(min=0), visible[:, None], np.flatnonzero(real), queries[real])
    on_device = [torch.from_numpy(array).to(device) for array in arrays]
    return Group(on_device[0], on_device[1], None if plain else on_device[2], on_device[3], on_device[4])


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    layout: Layout,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row: query [1, heads, T, d], key and value [1, kv_heads, T, d] -> [1, T, heads, d].

    Raises:
        ValueError: when the model's attention has a part that this one does not compute.
    """
    assert attention_mask is None and query.shape[0] == 1
    for name in UNKNOWN:
        if others.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} needs {name}, which packed attention does not compute; choose another model"
            )
    attend = kernel_for(query.device.type, query.dtype, softcap is not None)
    return attend(query[0], key[0], value[0], scaling, layout, layout.narrowed(sliding_window), softcap)[None], None


def _attend_ragged(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, layout: Layout, window: int | None, softcap: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert softcap is None
    # Aligned to the bottom right, so that a branch's first token sees its whole prompt: (-1, 0) is causal, and (n, 0)
    # sees the n keys before its own as well.
    ragged = layout.ragged
    return varlen_attn(  # type: ignore[return-value]  # a tuple if more is requested
        query.transpose(0, 1),
        key.transpose(0, 1)[ragged.key_rows],
        value.transpose(0, 1)[ragged.key_rows],
        ragged.query_starts,
        ragged.key_starts,
        ragged.longest_query,
        ragged.longest_key,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[0] != key.shape[0],
    )


def _attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    layout: Layout,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    heads, rows, width = query.shape
    repeats = heads // key.shape[0]
    groups, results = layout.groups(window), []
    for group in groups:
        q, k, v = (_gather(x, rows) for x, rows in ((query, group.queries), (key, group.keys), (value, group.keys)))
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        if softcap is None:
            causal = group.visible is None
            out = scaled_dot_product_attention(q, k, v, attn_mask=group.visible, is_causal=causal, scale=scaling)
        else:  # backward computes the scores again: kept, those of all layers would be most of a step's memory
            out = checkpoint(capped_attention, q, k, v, group.visible, scaling, softcap, use_reentrant=False)
        # [n, heads, rows, d]
        results.append(out.transpose(1, 2).reshape(-1, heads, width).index_select(0, group.results))
    order = torch.cat([group.rows for group in groups])
    return query.new_empty(rows, heads, width).index_copy(0, order, torch.cat(results))


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """softmax(softcap tanh(q k^T scaling / softcap)) v, the softmax in fp32 (Gemma-2, arXiv 2408.00118, section 2).

    All [n, heads, queries or keys, d]. Without `visible`, causal: the last query sees every key.
    """
    scores = torch.tanh((query @ key.transpose(-1, -2)).float() * (scaling / softcap)) * softcap
    if visible is None:
        queries, keys = scores.shape[-2:]
        visible = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    # Not -inf: a row of padding may see nothing, and NaN would reach the others through its values.
    hidden = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return hidden.softmax(-1).to(value.dtype) @ value


Attend = Callable[[Tensor, Tensor, Tensor, float, Layout, int | None, float | None], Tensor]


def kernel_for(device_type: str, dtype: torch.dtype, capped: bool) -> Attend:
    """Return the kernel: torch's variable-length attention is flash attention, without support for CPUs, fp32 or
    soft-capped scores."""
    half = dtype in (torch.bfloat16, torch.float16)
    return _attend_ragged if half and device_type == "cuda" and not capped else _attend_grouped


def _gather(states: Tensor, rows: Tensor) -> Tensor:
    """[heads, T, d] at rows [n, r] -> [n, heads, r, d]; the backward of index_select is far cheaper than indexing's."""
    heads, _, width = states.shape
    return states.index_select(1, rows.flatten()).view(heads, *rows.shape, width).transpose(0, 1)


# Registered without a mask function, so that transformers builds no mask for this attention.
AttentionInterface.register(NAME, packed_attention)
