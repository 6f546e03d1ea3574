"""The paper's argument in figures: gradient weights, margins by starting rank, the change of both likelihoods."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focalpo.reporting.figures import BLUE, GREEN, GREY, ORANGE, RED, SKY, save
from focalpo.reporting.theory import Array, focal_weight, focalpo_loss, focalpo_weight
from focalpo.stages.rankings import Change

GAMMAS = (0.05, 0.1, 0.25, 0.5, 1.0)
COLOURS = (SKY, BLUE, GREEN, ORANGE, RED)
COLUMNS = 5  # panels per line of small multiples


def gradient_figure(path: Path) -> None:
    """Plot loss and gradient weight against p: FocalPO in both readings of its factor, and focal loss, beside DPO."""
    p = np.linspace(0.001, 0.999, 999)
    u = np.log(p / (1 - p))
    figure, ((loss, both), (detached, foil)) = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    panels = (
        (loss, "FocalPO, loss $-p^\\gamma\\,\\log p$", lambda gamma: focalpo_loss(u, gamma)),
        (both, "FocalPO, weight\nfactor differentiated (our default)", lambda gamma: focalpo_weight(u, gamma)),
        (detached, "FocalPO, weight\nfactor detached", lambda gamma: focalpo_weight(u, gamma, True)),
        (foil, "Focal loss (the foil), weight", lambda gamma: focal_weight(u, gamma)),
    )
    for axes, title, curve in panels:
        axes.plot(p, curve(0.0), color="black", linewidth=2, label="DPO (gamma 0)")
        for gamma, colour in zip(GAMMAS, COLOURS, strict=True):
            axes.plot(p, curve(gamma), color=colour, label=f"gamma {gamma:g}")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("p = sig(beta x margin); training starts at 1/2", fontsize=8)
        axes.tick_params(labelsize=8)
    loss.set_ylim(0, 3)
    for axes in (both, detached, foil):
        axes.set_ylim(-0.2, 1.05)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    save(figure, path)


def margins_figure(changes: Mapping[str, Sequence[Change]], path: Path) -> None:
    """Plot the final reward margins of held-out pairs that started right and wrong; ties are neither.

    `changes[row label]` holds one `Change` per seed.
    """
    figure, panels = small_multiples(changes, same_heights=False)
    margins = {
        row: (np.concatenate([c.margin for c in found]), _ranked_at_start(found)) for row, found in changes.items()
    }
    # The axis fits most rows: the few with extreme margins pile up in the end bins instead of squeezing all others.
    low, high = np.median([np.percentile(margin, [1, 99]) for margin, _ in margins.values()], axis=0)
    bins = np.linspace(1.5 * min(low, -1.0), 1.5 * max(high, 1.0), 40)
    for (row, (margin, ranked)), axes in zip(margins.items(), panels, strict=True):
        for started, colour, label in ((ranked == 1, GREEN, "started right"), (ranked == 0, ORANGE, "started wrong")):
            axes.hist(np.clip(margin[started], bins[0], bins[-1]), bins, color=colour, alpha=0.6, label=label)
            if started.any():
                axes.axvline(float(np.mean(margin[started])), color=colour, linewidth=1.5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(row, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    figure.supxlabel("final margin D, nats (the end bins include all values beyond them); lines: means", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    save(figure, path)


def displacement_figure(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], path: Path) -> None:
    """Plot the log-prob of chosen and rejected answers as change since the first steps, `curves[row][setting]`."""
    figure, panels = small_multiples(curves, same_heights=True)
    settings = list(dict.fromkeys(setting for found in curves.values() for setting in found))
    for (row, found), axes in zip(curves.items(), panels, strict=True):
        for setting, series in found.items():
            colour = (BLUE, ORANGE)[settings.index(setting) % 2]
            for name, style in (("logps_chosen", "-"), ("logps_rejected", "--")):
                if name in series:
                    change = np.array(series[name]) - series[name][0]
                    label = f"{setting}: {name.removeprefix('logps_')}"
                    axes.plot(series["step"], smoothed(change), style, color=colour, label=label, linewidth=1.2)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_yscale("symlog", linthresh=1)  # linear up to a nat; some methods move by tens
        axes.set_yticks([1, 0, -1, -10], ["1", "0", "-1", "-10"])
        axes.set_title(row, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("step", fontsize=8)
    figure.supylabel("change of log-prob, nats", fontsize=8)
    names = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(names.values()), list(names), loc="outside upper center", ncols=2, fontsize=8)
    save(figure, path)


def smoothed(values: Array, width: int = 5) -> Array:
    """Running mean; at both ends the window covers only existing values."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _ranked_at_start(found: Sequence[Change]) -> np.ndarray:
    return np.concatenate([change.ranked_right("start") for change in found])


def small_multiples(rows: Mapping[str, object], same_heights: bool) -> tuple[Figure, list[Axes]]:
    """One panel per row; all share the x axis and, with `same_heights`, the y axis."""
    lines = -(-len(rows) // COLUMNS)
    columns = min(len(rows), COLUMNS)
    size = (11, 1.2 + 1.7 * lines)
    figure, grid = plt.subplots(
        lines, columns, figsize=size, sharex=True, sharey=same_heights, squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    for unused in panels[len(rows) :]:
        unused.set_axis_off()
    return figure, panels[: len(rows)]
