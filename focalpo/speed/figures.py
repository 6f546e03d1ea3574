"""The figure of how cost grows: one panel for each quantity that was varied."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def growth_figure(rows: Sequence[Mapping], path: Path) -> None:
    """Pairs per second, and memory where it was measured, against every quantity varied."""
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = plt.subplots(2, len(axes), figsize=(2.6 * len(axes), 5), squeeze=False, layout="constrained")
    for column, axis in enumerate(axes):
        points = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in points]
        for place, name in enumerate(("pairs/s", "GB above model states")):
            panel = panels[place][column]
            if name not in points[0]:
                panel.set_axis_off()
                continue
            panel.plot(values, [row[name] for row in points], "o-", color="#0072B2")
            panel.set_ylim(bottom=0)
            panel.set_xticks(values, [str(value) for value in values], fontsize=7, rotation=45)
            panel.set_xlabel(axis, fontsize=8)
            panel.set_ylabel(name if column == 0 else "", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
