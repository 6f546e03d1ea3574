"""Packed prompt trees: a micro-batch is a list of trees laid end to end in one row, without padding.

    tokens     [ p0 | w0 | p1 | w1 | ... | l0 | l1 | ... ]       each prompt once, with its first branch behind it
    positions  each branch continues its own prompt's positions
    attention  a branch sees its prompt and itself, causally: one segment = (query rows, key rows)

Prompts and first branches come first because each is one causal sequence in place, whose keys need no copy.

The planner deals the pairs of a global batch to ranks and micro-steps; up to rounding (see `engine`), the gradient
does not depend on how they are dealt.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.training.layout import Layout, Segment
from focalpo.training.ranks import sent


@dataclass(frozen=True, slots=True)
class Part:
    """A rank's part of a micro-batch that `ranks` share (`sequence`): `whole` is the number T of all rows, `places` are
    the response tokens, of all R, that the part's rows predict."""

    ranks: int
    whole: int
    places: Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Trees laid end to end.

    `tokens`, `positions` [1, T]; `predictors` [R] rows of the hidden states that predict a response token, `labels` [R]
    the tokens they predict, `owners` [R] the sequence each belongs to. Sequence `s` is branch `s % B` of tree `s // B`.
    With a `part`, all but layout and owners are those of this rank's rows.
    """

    tokens: Tensor
    positions: Tensor
    layout: Layout
    predictors: Tensor
    labels: Tensor
    owners: Tensor
    branches: tuple[str, ...]
    trees: int
    part: Part | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch on another device."""
        moved = {name: sent(getattr(self, name), device) for name in _TENSORS}
        part = self.part and replace(self.part, places=sent(self.part.places, device))
        return MicroBatch(**moved, layout=self.layout.to(device), branches=self.branches, trees=self.trees, part=part)


_TENSORS = ("tokens", "positions", "predictors", "labels", "owners")


def pack(trees: Sequence[Tree], branches: tuple[str, ...], share_prompts: bool = True) -> MicroBatch:
    """Lay the trees with the named branches in one row; `share_prompts=False` repeats the prompt for each branch."""
    if not share_prompts:
        return _pack_repeated(trees, branches)
    first, *others = branches
    predictors, labels = [], []
    segments: list[list[Segment]] = []
    start, behind = 0, sum(len(tree.prompt) + len(tree.branches[first]) for tree in trees)
    for tree in trees:
        end = start + len(tree.prompt)
        segments.append([Segment(start, end, start, start)])
        for branch in branches:
            begin, count = (end if branch == first else behind), len(tree.branches[branch])
            segments[-1].append(Segment(begin, begin + count, start, end))
            # Response token t is predicted one row earlier, the first one by the last row of the shared prompt.
            before = np.arange(begin - 1, begin + count - 1)
            before[:1] = end - 1  # of an answer without a pair, the other one has no tokens
            predictors.append(before)
            labels.append(tree.branches[branch])
            behind += count if branch != first else 0
        start = end + len(tree.branches[first])
    rows = [ids for tree in trees for ids in (tree.prompt, tree.branches[first])]
    rows += [tree.branches[branch] for tree in trees for branch in others]
    positions = [np.arange(len(tree.prompt) + len(tree.branches[first])) for tree in trees]
    positions += [np.arange(len(t.prompt), len(t.prompt) + len(t.branches[b])) for t in trees for b in others]
    return MicroBatch(
        tokens=_joined(rows)[None],
        positions=_joined(positions)[None],
        layout=Layout(segments),
        predictors=_joined(predictors),
        labels=_joined(labels),
        owners=torch.from_numpy(np.repeat(np.arange(len(labels)), [len(response) for response in labels])),
        branches=branches,
        trees=len(trees),
    )


def _joined(rows: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(rows, dtype=np.int64))


def _pack_repeated(trees: Sequence[Tree], branches: tuple[str, ...]) -> MicroBatch:
    single = [Tree(tree.id, tree.prompt, {"only": tree.branches[branch]}) for tree in trees for branch in branches]
    batch = pack(single, ("only",))
    fields = {name: getattr(batch, name) for name in _TENSORS}
    return MicroBatch(**fields, layout=batch.layout, branches=branches, trees=len(trees))


def tree_cost(tree: Tree, branches: tuple[str, ...]) -> int:
    """Number of tokens that the tree adds to a micro-batch."""
    return len(tree.prompt) + sum(len(tree.branches[branch]) for branch in branches)


def deal(costs: Sequence[int], ranks: int, budget: int) -> list[list[list[int]]]:
    """Deal the items of one global batch: `deal(...)[rank][micro_step]` lists item numbers.

    Every rank gets the same number of micro-steps, none of them empty, and none above `budget` tokens unless a single
    item is. Greedy longest-first dealing balances them (Graham 1969: within 4/3 of the optimum).

    Raises:
        ValueError: when there are fewer items than ranks.
    """
    if len(costs) < ranks:
        raise ValueError(f"a global batch of {len(costs)} pairs cannot feed {ranks} ranks; raise train.global_batch")
    largest = max(*costs, budget)
    most = len(costs) // ranks
    steps = min(most, -(-sum(costs) // (ranks * largest)))
    while True:
        bins = _longest_first(costs, ranks * steps)
        if max(load for load, _ in bins) <= largest or steps == most:
            break
        steps += 1
    # Heaviest bins go to the same micro-step of all ranks, so that no rank waits for another inside a step.
    ordered = [sorted(items) for _, items in sorted(bins, key=lambda loaded: (-loaded[0], loaded[1]))]
    return [[ordered[step * ranks + rank] for step in range(steps)] for rank in range(ranks)]


def imbalance(costs: Sequence[int], hands: Sequence[Sequence[Sequence[int]]]) -> float:
    """Sum of the largest load of each micro-step over the mean load of a rank: 1 when no rank waits for another."""
    loads = [[sum(costs[item] for item in share) for share in hand] for hand in hands]
    return sum(max(step) for step in zip(*loads, strict=True)) * len(hands) / sum(costs)


def _longest_first(costs: Sequence[int], count: int) -> list[tuple[int, list[int]]]:
    heap = [(0, place, []) for place in range(count)]
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        load, place, items = heapq.heappop(heap)
        heapq.heappush(heap, (load + costs[item], place, [*items, item]))
    return [(load, items) for load, _, items in heap]


@dataclass(frozen=True, slots=True)
class Batcher:
    """Splits a global batch into a rank's micro-batches of at most `budget` tokens. Only the benchmark replaces `pack`
    and `deal`, to measure what each one gains and to check that neither changes a result."""

    budget: int
    pack: Callable[[Sequence[Tree], tuple[str, ...]], MicroBatch] = pack
    deal: Callable[[Sequence[int], int, int], list[list[list[int]]]] = deal

    def micro_batches(
        self, trees: Sequence[Tree], branches: tuple[str, ...], ranks: int, rank: int
    ) -> Iterator[tuple[list[int], MicroBatch, bool]]:
        """Yield the rank's micro-batches: indices of the trees, the packed trees, and whether it is the last one."""
        shares = self.deal([tree_cost(tree, branches) for tree in trees], ranks, self.budget)[rank]
        for place, share in enumerate(shares, 1):
            yield share, self.pack([trees[item] for item in share], branches), place == len(shares)
