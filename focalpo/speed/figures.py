"""The figures of how cost grows, here as measured and at the tables' scales as estimated: a panel per quantity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

COLORS = ("#0072B2", "#D55E00", "#009E73")


def growth_figure(rows: Sequence[Mapping], path: Path) -> None:
    """Plot pairs per second, and memory where measured, against each varied quantity; ZeRO stages share a panel."""
    panels: dict[str, dict[str, list[Mapping]]] = {}
    for row in rows:
        stage, _, axis = row["axis"].rpartition(" ") if row["axis"].startswith("ZeRO") else ("", "", row["axis"])
        panels.setdefault(axis, {}).setdefault(stage, []).append(row)
    figure, grid = plt.subplots(2, len(panels), figsize=(2.6 * len(panels), 5), squeeze=False, layout="constrained")
    for (axis, lines), column in zip(panels.items(), grid.T, strict=True):
        for name, panel in zip(("pairs/s", "GB above model states"), column, strict=True):
            _panel(panel, axis, name, lines)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(panel: plt.Axes, axis: str, name: str, lines: Mapping[str, Sequence[Mapping]]) -> None:
    known = {label: [row[name] for row in line] for label, line in lines.items() if name in line[0]}
    if not known:
        panel.set_axis_off()
        return
    for (label, heights), color in zip(known.items(), COLORS, strict=False):
        panel.plot([row["value"] for row in lines[label]], heights, "o-", color=color, label=label or None)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.tick_params(labelsize=7)
    panel.set_ylim(0, 1.1 * max(max(heights) for heights in known.values()))
    panel.set_xlabel(axis, fontsize=8)
    panel.set_ylabel(name, fontsize=8)
    if any(known):
        panel.legend(fontsize=7, loc="lower right")


def scales_figure(rows: Sequence[Mapping], path: Path) -> None:
    """Plot the hours of each scale's trainings against each quantity; the ring is what the table has."""
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = plt.subplots(1, len(axes), figsize=(2.6 * len(axes), 3.2), sharey=True, layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        for scale, color in zip(dict.fromkeys(row["scale"] for row in rows), COLORS, strict=False):
            line = [row for row in rows if (row["scale"], row["axis"]) == (scale, axis)]
            label = f"{scale}: {line[0]['rate']}" if line else None
            panel.loglog([row["value"] for row in line], [row["hours"] for row in line], "o-", color=color, label=label)
            own = [row for row in line if row["times"] == 1]
            places = [row["value"] for row in own], [row["hours"] for row in own]
            panel.plot(*places, "o", markersize=11, markerfacecolor="none", color=color)
        panel.tick_params(labelsize=7)
        panel.set_xlabel(axis, fontsize=8)
    panels[0].set_ylabel("hours of all trainings (estimates)", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside upper center", ncols=len(labels))
    figure.savefig(path, dpi=130)
    plt.close(figure)
