"""Where the segments of packed trees lie in their row, and the index tensors that each attention kernel reads.

A segment's queries see the keys of its prefix (the prompt; empty for the prompt itself) and, causally, its own keys; in
a layer with a sliding window, the last `window` of them. What a kernel reads is made once per micro-batch, when its
first layer asks for it: the other layers, and recomputation in the backward pass, share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from focalpo.training.ranks import sent

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# A tree of at most this many tokens is one block. A mask hides its branches from each other, which costs less than
# gathering the prompt's keys again for each branch.
SMALL_TREE = 128
# Padding that a group may add, in cells (queries x keys): on a CPU an attention call costs about as much as 2^15 cells.
SMALL_GROUP = 1 << 15
WASTE = 1.25
TILE = 128
"""Queries and keys of a tile that FlexAttention skips, computes, or computes under the mask."""


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
    """Sequences of one call of variable-length attention: where the queries and the keys of each start,
    [sequences + 1], and the longest of both."""

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


class Layout:
    """Positions of the segments of every tree, prompts first. In the packed row every prompt is followed by its first
    branch; all other branches follow behind the last of these.

    `windows` are the sliding windows that layers have asked for.
    """

    def __init__(self, trees: Sequence[Sequence[Segment]], device: torch.device | str = "cpu") -> None:
        self.trees, self.device = trees, torch.device(device)
        self.windows: set[int | None] = set()
        self._groups: dict[int | None, tuple[Group, ...]] = {}
        self._masks: dict[int | None, BlockMask] = {}

    def to(self, device: torch.device) -> "Layout":
        return Layout(self.trees, device)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence, prompt and response. On the host, where the GPU need not be waited for."""
        return max(segment.keys for tree in self.trees for segment in tree)

    @cached_property
    def responses(self) -> list[int]:
        """Tokens of every response, in the order of the trees. On the host, as above."""
        return [branch.queries for tree in self.trees for branch in tree[1:]]

    @cached_property
    def trunk(self) -> int:
        """Rows of all prompts and first branches, with which the packed row begins."""
        return sum(tree[0].queries + tree[1].queries for tree in self.trees)

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
    def trunks(self) -> Ragged:
        """Each prompt with its first branch, as one causal sequence of the first `trunk` rows: no key is copied."""
        lengths = [tree[0].queries + tree[1].queries for tree in self.trees]
        starts = self._starts(lengths)
        return Ragged(starts, starts, max(lengths), max(lengths))

    @cached_property
    def branches(self) -> Ragged | None:
        """The branches behind the trunks, each with its keys among `branch_keys`; None if there are none."""
        others = [branch for tree in self.trees for branch in tree[2:]]
        if not others:
            return None
        queries, keys = [each.queries for each in others], [each.keys for each in others]
        return Ragged(self._starts(queries), self._starts(keys), max(queries), max(keys))

    @cached_property
    def branch_keys(self) -> Tensor:
        """Rows of the packed row [K]: of each branch behind the trunks, its prompt's and its own."""
        others = [branch for tree in self.trees for branch in tree[2:]]
        rows = [np.arange(*span) for b in others for span in ((b.prefix_start, b.prefix_end), (b.start, b.end))]
        return sent(torch.from_numpy(np.concatenate(rows)), self.device)

    def _starts(self, lengths: Sequence[int]) -> Tensor:
        return sent(torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)), self.device)

    def mask(self, window: int | None) -> "BlockMask":
        """The whole row's mask for FlexAttention, which skips tiles that nothing sees."""
        if window not in self._masks:
            self._masks[window] = _block_mask([s for tree in self.trees for s in tree], self.device, window)
        return self._masks[window]


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


def _pad(group: list[Block], device: torch.device, window: int | None) -> Group:
    depth, width = (max(sizes) for sizes in zip(*map(_size, group), strict=True))
    queries, keys = np.zeros((len(group), width), np.int64), np.full((len(group), depth), -1)
    start, prefix_start, prefix_end = (np.full((len(group), width), -1) for _ in range(3))
    for place, block in enumerate(group):
        rows = np.concatenate([np.arange(s.start, s.end) for s in block])
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
        # In the packed row other rows may lie between a prefix and its segment: count from the segment's start.
        gap = np.where(prefix, (start - prefix_end)[..., None], 0)
        visible &= queries[..., None] - k - gap < window
    visible |= ~real[..., None]  # a padded query sees every key: with none, its softmax would be NaN
    plain = window is None and len(group) == 1 and len(group[0]) == 1 and group[0][0].keys == group[0][0].queries
    arrays = (queries, keys.clip(min=0), visible[:, None], np.flatnonzero(real), queries[real])
    on_device = [sent(torch.from_numpy(array), device) for array in arrays]
    return Group(on_device[0], on_device[1], None if plain else on_device[2], on_device[3], on_device[4])


def _block_mask(segments: Sequence[Segment], device: torch.device, window: int | None) -> "BlockMask":
    from torch.nn.attention.flex_attention import BlockMask

    count = max(segment.end for segment in segments)
    start, prefix_start, prefix_end = (np.zeros(count, np.int32) for _ in range(3))
    for s in segments:
        start[s.start : s.end], prefix_start[s.start : s.end], prefix_end[s.start : s.end] = (
            s.start,
            s.prefix_start,
            s.prefix_end,
        )
    begins, prefix_begins, prefix_ends = (
        sent(torch.from_numpy(array), device) for array in (start, prefix_start, prefix_end)
    )

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        prefix = (key >= prefix_begins[query]) & (key < prefix_ends[query])
        seen = prefix | ((key >= begins[query]) & (key <= query))
        if window is None:
            return seen
        gap = torch.where(prefix, begins[query] - prefix_ends[query], 0)
        return seen & (query - key - gap < window)

    touched, whole = _tiles(segments, -(-count // TILE))
    if window is not None:
        whole[:] = False
    masked, plain = ([sent(each, device) for each in _ordered(kind)] for kind in (touched & ~whole, whole))
    return BlockMask.from_kv_blocks(
        masked[0], masked[1], plain[0], plain[1], BLOCK_SIZE=TILE, mask_mod=visible, seq_lengths=(count, count)
    )


def _tiles(segments: Sequence[Segment], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles have a visible cell, and in which of them all cells are: both [query tiles, key tiles]."""
    touched, whole = np.zeros((2, count, count), bool)
    for s in segments:
        prefix = s.prefix_start, s.prefix_end
        for tiles, within in ((touched, _touching), (whole, _inside)):
            rows, own = within(s.start, s.end), within(s.start, s.end)
            if s.prefix_end > s.prefix_start:
                tiles[rows, within(*prefix)] = True
            for row in range(rows.start, rows.stop):  # causal: up to the diagonal, whose own tile is never whole
                tiles[row, own.start : row + (tiles is touched)] = True
    return touched, whole


def _touching(start: int, end: int) -> slice:
    """Tiles that hold any of the rows [start, end)."""
    return slice(start // TILE, -(-end // TILE))


def _inside(start: int, end: int) -> slice:
    """Tiles that hold no other row than [start, end)."""
    return slice(-(-start // TILE), max(-(-start // TILE), end // TILE))


def _ordered(tiles: np.ndarray) -> tuple[Tensor, Tensor]:
    """How many tiles of each row are set, and the numbers of these, then of the others: [1, 1, rows(, tiles)]."""
    numbers = np.argsort(~tiles, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(tiles.sum(1, dtype=np.int32))[None, None], torch.from_numpy(numbers)[None, None]
