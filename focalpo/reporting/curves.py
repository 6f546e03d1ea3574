"""Training curves of a row: one short series per metric, means over the metrics.jsonl of its seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from focalpo.stages.records import read_json_lines

POINTS = 60


def training_curves(folders: Sequence[Path], points: int = POINTS) -> dict[str, list[float]]:
    """Series by metric, and `step`; each point is the mean over the seeds and over a window of steps.

    A single step sees one global batch; the windows average out its noise.
    """
    runs = [read_json_lines(folder / "metrics.jsonl") for folder in folders if (folder / "metrics.jsonl").is_file()]
    if not runs or not all(runs):
        return {}
    steps = min(map(len, runs))
    names = [name for name in runs[0][0] if all(name in row for run in runs for row in run[:steps])]
    values = np.array([[[row[name] for name in names] for row in run[:steps]] for run in runs]).mean(0)
    windows = np.array_split(values, min(points, steps))
    means = np.array([window.mean(0) for window in windows])
    return {name: [_short(x) for x in means[:, place]] for place, name in enumerate(names)}


def _short(value: float) -> float:
    """Round to five digits: as many as a plot can show, so that the page stays small."""
    return float(f"{value:.5g}")
