"""Attention over packed trees, registered with transformers so that any of its causal LMs runs unchanged.

A segment's queries see the keys of its prefix (the prompt; nothing for the prompt itself) and, causally, of itself.
On CUDA all segments are one call of torch's variable-length attention. On the CPU segments of like length share one
padded `scaled_dot_product_attention` call: pocket-sized segments cost a call per micro-batch, long ones waste nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "packed_trees"
# Padding a group may add while its cells (queries x keys) stay below SMALL_GROUP, and beyond that: a call of attention
# costs about as much as 2^15 cells of it on a CPU core.
SMALL_GROUP = 1 << 15
WASTE = 1.25


@dataclass(frozen=True, slots=True)
class Segment:
    """Query rows [start, end) with prefix rows [prefix_start, prefix_end) of the packed row."""

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
    """Segments padded to one shape: `queries` [n, q] and `keys` [n, k] rows, `visible` [n, 1, q, k], and which of the
    n * q results are real (`results`) and to which packed row each goes (`rows`)."""

    queries: Tensor
    keys: Tensor
    visible: Tensor | None
    results: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """All segments of a micro-batch, in the form the device's kernel wants; made once, used by every layer."""

    groups: tuple[Group, ...]
    key_rows: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int

    def to(self, device: torch.device) -> "Layout":
        """The layout on another device; a GPU needs no padded groups."""
        if device.type == "cpu":
            return self
        rows = (self.key_rows.to(device), self.query_starts.to(device), self.key_starts.to(device))
        return Layout((), *rows, self.longest_query, self.longest_key)


def lay_out(segments: Sequence[Segment]) -> Layout:
    """Prepare the segments, which must tile the packed row in order."""
    key_rows = [row for s in segments for span in _spans(s) for row in range(*span)]
    starts = [
        torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32) for lengths in _lengths(segments)
    ]
    return Layout(
        groups=tuple(_pad(group) for group in _alike(segments)),
        key_rows=torch.tensor(key_rows),
        query_starts=starts[0],
        key_starts=starts[1],
        longest_query=max(s.queries for s in segments),
        longest_key=max(s.keys for s in segments),
    )


def _spans(segment: Segment) -> tuple[tuple[int, int], tuple[int, int]]:
    return (segment.prefix_start, segment.prefix_end), (segment.start, segment.end)


def _lengths(segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
    return [s.queries for s in segments], [s.keys for s in segments]


def _alike(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Groups whose padded size stays near their real size, longest keys first."""
    groups: list[list[Segment]] = []
    width = depth = cells = 0
    for segment in sorted(segments, key=lambda s: (-s.keys, -s.queries, s.start)):
        added = segment.queries * segment.keys
        if groups:
            padded = (len(groups[-1]) + 1) * max(width, segment.queries) * depth
            if padded - cells - added <= SMALL_GROUP or padded <= WASTE * (cells + added):
                groups[-1].append(segment)
                width, cells = max(width, segment.queries), cells + added
                continue
        groups.append([segment])
        width, depth, cells = segment.queries, segment.keys, added
    return groups


def _pad(group: list[Segment]) -> Group:
    width, depth = max(s.queries for s in group), max(s.keys for s in group)
    queries, keys = torch.zeros(len(group), width, dtype=torch.long), torch.zeros(len(group), depth, dtype=torch.long)
    for place, s in enumerate(group):
        queries[place, : s.queries] = torch.arange(s.start, s.end)
        keys[place, : s.keys] = torch.tensor([row for span in _spans(s) for row in range(*span)])
    prefixes = torch.tensor([s.keys - s.queries for s in group])
    lengths = torch.tensor([s.queries for s in group])
    # Query i of a segment sees its whole prefix and its own rows 0..i, so padded keys are never seen by real queries.
    reach = prefixes[:, None] + torch.arange(width) + 1
    visible = torch.arange(depth) < reach[:, None, :, None]
    results = (torch.arange(width) < lengths[:, None]).flatten().nonzero()[:, 0]
    plain = len(group) == 1 and group[0].keys == group[0].queries
    return Group(queries, keys, None if plain else visible, results, queries.flatten()[results])


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    layout: Layout,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row: query [1, heads, T, d], key and value [1, kv_heads, T, d] -> [1, T, heads, d]."""
    assert attention_mask is None and query.shape[0] == 1
    attend = _attend_cuda if query.is_cuda else _attend_cpu
    return attend(query[0], key[0], value[0], scaling, layout)[None], None


def _attend_cuda(query: Tensor, key: Tensor, value: Tensor, scaling: float, layout: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # window (-1, 0): causal, aligned to the bottom right, so that a branch's first token sees its whole prompt.
    return varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1)[layout.key_rows],
        value.transpose(0, 1)[layout.key_rows],
        layout.query_starts,
        layout.key_starts,
        layout.longest_query,
        layout.longest_key,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[0] != key.shape[0],
    )


def _attend_cpu(query: Tensor, key: Tensor, value: Tensor, scaling: float, layout: Layout) -> Tensor:
    heads, rows, width = query.shape
    repeats = heads // key.shape[0]
    results = []
    for group in layout.groups:
        q, k, v = (_gather(x, rows) for x, rows in ((query, group.queries), (key, group.keys), (value, group.keys)))
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=group.visible,
            is_causal=group.visible is None,
            scale=scaling,
        )  # [n, heads, rows, d]
        results.append(out.transpose(1, 2).reshape(-1, heads, width).index_select(0, group.results))
    order = torch.cat([group.rows for group in layout.groups])
    return query.new_empty(rows, heads, width).index_copy(0, order, torch.cat(results))


def _gather(states: Tensor, rows: Tensor) -> Tensor:
    """[heads, T, d] at rows [n, r] -> [n, heads, r, d]. index_select: its backward is far cheaper than indexing's."""
    heads, _, width = states.shape
    return states.index_select(1, rows.flatten()).view(heads, *rows.shape, width).transpose(0, 1)


# Registered without a mask function: transformers then builds no mask at all for this attention.
AttentionInterface.register(NAME, packed_attention)
