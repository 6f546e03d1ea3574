"""The figures of every table run: scores with intervals, rankings before and after, win rate against length."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focalpo.reporting.cells import Results

# Colours that colour-blind readers can tell apart, also in print (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, SKY, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#999999"
ON_BARS = "#1b1f24"
"""Of numbers on coloured bars: not black, which a dark page makes light."""
PANELS = 4
"""Of the table's figure side by side; more columns go on below."""
LEAST_LABELLED = 2
"""Per cent of a bar that have room for a number."""
GROUPS = {
    "right_right": ("right, stays right", GREEN),
    "wrong_right": ("wrong, becomes right", SKY),
    "right_wrong": ("right, becomes wrong", ORANGE),
    "wrong_wrong": ("wrong, stays wrong", GREY),
}


def save(figure: Figure, path: Path) -> None:
    """Write `<path>.png` and `<path>.svg`, identical bytes for identical numbers, and close the figure."""
    with matplotlib.rc_context({"svg.hashsalt": "focalpo"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.set_layout_engine("none")  # the places stay: finding them again is a fifth of the time
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)


def table_figure(results: Results, path: Path) -> None:
    """Plot every cell of the table as a point with its 95% interval, one panel per setting and column."""
    columns = results.columns
    lines = [columns[first : first + PANELS] for first in range(0, max(1, len(columns)), PANELS)]
    across = max(1, len(lines[0]))
    height = 1.2 + 0.28 * max(len(rows) for rows in results.rows.values())
    figure, grid = plt.subplots(
        len(results.rows) * len(lines),
        across,
        figsize=(max(11, 3.6 * across), height * len(results.rows) * len(lines)),
        sharex="col" if len(lines) == 1 else False,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    places = [(setting, line) for setting in results.rows for line in lines]
    for (setting, line), panels in zip(places, grid, strict=True):
        for column, axes in zip(line, panels, strict=False):
            _intervals(axes, results, setting, column.name)
            above = f"{results.settings[setting]}\n" if column == columns[0] else ""
            axes.set_title(f"{above}{column.title}", fontsize=9)
        for axes in panels[len(line) :]:
            axes.set_axis_off()
    figure.suptitle(results.title, fontsize=10)
    figure.supxlabel("score, %", fontsize=8)
    save(figure, path)


def dynamics_figure(
    groups: Mapping[str, Mapping[str, Mapping[str, float]]], labels: Mapping[str, str], path: Path
) -> None:
    """Plot the shares of held-out pairs by ranking at the start and the end, which is the paper's question.

    Shares are `groups[setting][row][group]`.
    """
    settings = list(groups)
    height = 1.4 + 0.28 * max(1, *map(len, groups.values()))
    figure, grid = plt.subplots(1, len(settings), figsize=(11, height), squeeze=False, layout="constrained")
    for setting, axes in zip(settings, grid[0], strict=True):
        rows = list(groups[setting])
        left = [0.0] * len(rows)
        for group, (title, colour) in GROUPS.items():
            shares = [100 * groups[setting][row][group] for row in rows]
            bars = axes.barh(range(len(rows)), shares, left=left, color=colour, label=title)
            shown = [f"{share:.0f}" if share >= LEAST_LABELLED else "" for share in shares]
            axes.bar_label(bars, shown, label_type="center", fontsize=7, color=ON_BARS)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        rows_axis(axes, [labels[row] for row in rows])
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of held-out pairs, ranked by summed log-probability", fontsize=8)
        axes.set_title(setting, fontsize=9)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(GROUPS), fontsize=8)
    save(figure, path)


def length_figure(results: Results, path: Path) -> None:
    """Plot win rate against answer length: raw as a ring, length-controlled as a dot, connected by a line."""
    figure, grid = plt.subplots(1, len(results.rows), figsize=(11, 5), squeeze=False, sharey=True, layout="constrained")
    for (setting, rows), axes in zip(results.rows.items(), grid[0], strict=True):
        shown = [row for row in rows if row.cells.keys() >= {"ae2_lc", "ae2_wr"} and "tokens" in row.extras]
        for row in shown:
            x, raw, controlled = row.extras["tokens"], row.cells["ae2_wr"].value, row.cells["ae2_lc"].value
            colour = RED if row.name == "focalpo" else BLUE
            axes.plot([x, x], [raw, controlled], color=colour, linewidth=0.8)
            axes.plot([x], [raw], "o", markerfacecolor="none", color=colour, markersize=6)
            axes.plot([x], [controlled], "o", color=colour, markersize=5)
        _labels_beside(axes, [(row.label, row.extras["tokens"], row.cells["ae2_lc"].value) for row in shown])
        axes.set_xlabel("mean answer length, tokens", fontsize=8)
        axes.set_title(results.settings[setting], fontsize=9)
        axes.grid(linewidth=0.3)
    grid[0][0].set_ylabel("AlpacaEval win rate % (ring: raw, dot: length-controlled)", fontsize=8)
    save(figure, path)


def _labels_beside(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Label points in a column right of the panel, in the order of their heights, so that no two labels overlap."""
    for place, (label, x, y) in enumerate(sorted(points, key=lambda point: point[2])):
        axes.annotate(
            label,
            (x, y),
            xytext=(1.02, (place + 0.5) / len(points)),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "relpos": (0, 0.5)},
        )


def _intervals(axes: Axes, results: Results, setting: str, column: str) -> None:
    rows = results.rows[setting]
    for place, row in enumerate(rows):
        cell = row.cells.get(column)
        if cell is not None:
            colour = RED if row.name == "focalpo" else BLUE
            axes.plot([cell.low, cell.high], [place, place], color=colour, linewidth=2)
            axes.plot([cell.value], [place], "o", color=colour, markersize=5)
        if row.paper.get(column) is not None:
            axes.plot([row.paper[column]], [place], "x", color="black", markersize=6)
    base = next((row.cells.get(column) for row in rows if row.name == results.compare_with), None)
    if base is not None:
        axes.axvline(base.value, color="black", linewidth=0.8, linestyle=":")
    rows_axis(axes, [row.label for row in rows])
    axes.grid(axis="x", linewidth=0.3)


def rows_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Give each row of the table one line of the y axis, the first at the top."""
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
