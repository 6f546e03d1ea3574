"""The figure of the studies of weights: every row minus the compared one, in scores and in pairs fixed and broken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from focalpo.reporting.cells import Results
from focalpo.reporting.figures import save
from focalpo.reporting.finding import LEVEL, short_label
from focalpo.reporting.fixes import COMPARED, SPLITS, Share

SPLIT = "test"


@dataclass(frozen=True, slots=True)
class Panel:
    """A title, and differences with their corrected p-values by row and setting."""

    title: str
    found: Mapping[tuple[str, str], tuple[float, float]]


def weighting_figure(results: Results, fixed: Sequence[Share], path: Path) -> None:
    """Plot two lines of heat maps, rows by settings: differences of scores above, of pairs fixed and broken below."""
    lines = [score_panels(results), pair_panels(fixed)]
    labels = {row.name: row.label for rows in results.rows.values() for row in rows if row.name != results.compare_with}
    settings = {name: short_label(results, name) if len(results.rows) > 1 else "" for name in results.rows}
    across = max(1, *map(len, lines))
    size = (3.2 + across * max(1.6, 0.7 + 0.37 * len(settings)), 2 * (1.6 + 0.24 * len(labels)))
    figure, grid = plt.subplots(2, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panels, line in zip(lines, grid, strict=True):
        for panel, axes in zip(panels, line, strict=False):
            _heat(axes, panel, labels, settings)
        for axes in line[len(panels) :]:
            axes.set_axis_off()
    figure.suptitle(f"minus {results.compare_label}", fontsize=10)
    save(figure, path)


def score_panels(results: Results) -> list[Panel]:
    """One per column of the table."""
    return [
        Panel(
            f"{column.title},\npoints",
            {
                (row.name, setting): (cell.difference.value, cell.p_holm)
                for setting, rows in results.rows.items()
                for row in rows
                if (cell := row.cells.get(column.name)) is not None and cell.difference is not None
            },
        )
        for column in results.columns
    ]


def pair_panels(fixed: Sequence[Share]) -> list[Panel]:
    """Held-out pairs fixed and broken, for each kind of labels."""
    mine = [share for share in fixed if share.split == SPLIT and share.difference is not None]
    return [
        Panel(
            f"{SPLITS[SPLIT]},\n{labels} labels,\n{word} %",
            {
                (share.row, share.setting): (share.difference.value, share.p_holm)
                for share in mine
                if (share.labels, share.move) == (labels, move) and share.difference is not None
            },
        )
        for labels in dict.fromkeys(share.labels for share in mine)
        for move, word in COMPARED.items()
    ]


def _heat(axes: Axes, panel: Panel, labels: Mapping[str, str], settings: Mapping[str, str]) -> None:
    values = np.array([[panel.found.get((row, s), (np.nan, 1.0))[0] for s in settings] for row in labels])
    largest = max(1.0, float(np.nanmax(np.abs(values), initial=1.0)))
    axes.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    for y, row in enumerate(labels):
        for x, setting in enumerate(settings):
            value, p = panel.found.get((row, setting), (np.nan, 1.0))
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.6 * largest else "black"
                weight = "bold" if p < LEVEL else "normal"
                axes.text(x, y, f"{value:+.1f}", ha="center", va="center", fontsize=6, color=colour, fontweight=weight)
    axes.set_xticks(range(len(settings)), list(settings.values()), rotation=90, fontsize=7)
    axes.set_yticks(range(len(labels)), list(labels.values()), fontsize=8)
    axes.set_title(panel.title, fontsize=9)
