"""Prompt trees: what training packs, and their files. Ids stay arrays from the tokenizer to the packed row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A prompt and its branches as token ids, the unit of packing (`branches["chosen"]`, `branches["rejected"]`).

    Of an answer without a pair only one branch has tokens.
    """

    id: str
    prompt: Ids
    branches: dict[str, Ids]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.branches.values()))


def with_mismatched(trees: Sequence[Tree]) -> list[Tree]:
    """Trees with the single branch "mismatched", an answer to another prompt: KTO's KL sample (arXiv 2402.01306, 3.2).

    The answer is that of the next tree of the dataset with another prompt (to its own where all have one), chosen and
    rejected in turn or the only one, so that it does not depend on the batch, the seed or the number of ranks, and
    its reference logps can be cached. It is cut where prompt
    and answer would be longer than any pair's: the pairs keep `data.max_length` and the model's positions, two
    strangers might not.
    """
    longest = max((len(tree.prompt) + max(map(len, tree.branches.values())) for tree in trees), default=0)
    following = _next_prompts(trees)
    sides = ("chosen", "rejected")

    def answer(tree: Tree, place: int) -> Ids:
        turn, other = tree.branches[sides[place % 2]], tree.branches[sides[1 - place % 2]]
        return turn if len(turn) else other

    return [
        Tree(tree.id, tree.prompt, {"mismatched": answer(other, place)[: longest - len(tree.prompt)]})
        for place, (tree, other) in enumerate(zip(trees, following, strict=True))
    ]


def _next_prompts(trees: Sequence[Tree]) -> list[Tree]:
    """For each tree the next one, around the end, whose prompt is another; the next one where there is no other."""
    found = [*trees[1:], *trees[:1]]
    for _ in range(2):  # backwards, twice around: a tree whose neighbour has its prompt takes what that one has
        for place in reversed(range(len(trees))):
            if np.array_equal(found[place].prompt, trees[place].prompt):
                found[place] = found[(place + 1) % len(trees)]
    return found


def with_shared(trees: Sequence[Tree]) -> list[Tree]:
    """Trees with the branches "chosen_shared" and "rejected_shared": of each response as many first tokens as the
    shorter one has (LD-DPO, arXiv 2409.06411)."""
    sides = ("chosen", "rejected")

    def shared(tree: Tree) -> dict[str, Ids]:
        least = min(len(tree.branches[side]) for side in sides)
        return {f"{side}_shared": tree.branches[side][:least] for side in sides}

    return [Tree(tree.id, tree.prompt, shared(tree)) for tree in trees]


def write_trees(path: Path, trees: Sequence[Tree]) -> None:
    """Write trees as parquet: id, prompt, and one column of ids per branch."""
    columns = {"id": pa.array([tree.id for tree in trees], pa.string())}
    columns["prompt"] = _column([tree.prompt for tree in trees])
    for branch in trees[0].branches if trees else ():
        columns[branch] = _column([tree.branches[branch] for tree in trees])
    pq.write_table(pa.table(columns), path)


def read_trees(path: Path) -> list[Tree]:
    """Read trees written by `write_trees`; their ids are views of one array per column, which nobody may change."""
    table = pq.read_table(path)
    ids, *columns = ({name: table[name] for name in table.column_names}).values()
    prompts, *branches = map(_rows, columns)
    names = table.column_names[2:]
    return [
        Tree(name, prompt, dict(zip(names, answers, strict=True)))
        for name, prompt, *answers in zip(ids.to_pylist(), prompts, *branches, strict=True)
    ]


def _column(rows: Sequence[Ids]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.concatenate(rows).astype(np.int32) if rows else np.empty(0, np.int32)
    return pa.LargeListArray.from_arrays(offsets, flat)


def _rows(column: pa.ChunkedArray) -> list[Ids]:
    lists = column.combine_chunks().cast(pa.large_list(pa.int32()))
    flat, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return np.split(flat, offsets[1:-1]) if len(lists) else []
