"""Diagnose a loss or gradient that is not finite: name the pairs and write the global batch to a file."""

import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.stages.folder import write_json
from focalpo.training.ranks import gather, rank

DUMP = "not_finite.json"
Seen = tuple[list[int], Tensor, Tensor]
"""Items of a micro-batch, their log-probs [items, branches] and their losses [items]."""


def dump(
    seen: Sequence[Seen], trees: Sequence[Tree], reference: dict[str, list[float]], step: int, folder: Path
) -> str:
    """Write the batch to `folder/not_finite.json` and return a message that names the pairs at fault, or the gradient
    if every loss is finite; every rank must call it."""
    mine = [
        {"item": item, "loss": loss, "logps": row}
        for items, logps, losses in seen
        for item, row, loss in zip(items, logps.tolist(), losses.tolist(), strict=True)
    ]
    rows = sorted((row for share in gather(mine) for row in share), key=lambda row: row["item"])
    pairs = [
        _ids(trees[row["item"]])
        | {"loss": row["loss"], "logps": row["logps"]}
        | {"reference": {branch: values[row["item"]] for branch, values in reference.items()}}
        for row in rows
    ]
    if rank() == 0:
        write_json(folder / DUMP, {"step": step, "pairs": pairs})
    bad = [pair["id"] for pair in pairs if not math.isfinite(pair["loss"])]
    if not bad:
        return (
            f"gradient is not finite at step {step}, though the losses of all {len(pairs)} pairs are; {folder / DUMP} "
            "holds the batch; fix or drop the pair at fault, or lower train.learning_rate"
        )
    return (
        f"loss is not finite at step {step}, pairs {', '.join(bad[:8])} ({len(bad)} of {len(pairs)}); {folder / DUMP} "
        "holds the batch; fix or drop these pairs, or lower train.learning_rate"
    )


def _ids(tree: Tree) -> dict:
    """The id and the token ids of a tree as plain lists."""
    branches = {branch: list(map(int, ids)) for branch, ids in tree.branches.items()}
    return {"id": tree.id, "prompt": list(map(int, tree.prompt)), "branches": branches}
