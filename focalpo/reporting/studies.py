"""The figures of the two studies: FocalPO's gamma against rescaled DPO, and FocalPO minus DPO against label noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from focalpo.reporting.argument import COLOURS
from focalpo.reporting.cells import Results, RowResult
from focalpo.reporting.figures import BLUE, ORANGE, RED, rows_axis, save
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.theory import best_margin, expected_loss
from focalpo.stages.rankings import Change

Changes = Mapping[str, Mapping[str, Sequence[Change]]]
"""Effect of training by setting and row, one `Change` per seed."""


def gamma_figure(run: TableRun, results: Results, path: Path) -> None:
    """Plot win rate, margins and likelihoods over gamma and its controls, and why large gammas collapse."""
    changes = _changes(run, "test")
    figure = plt.figure(figsize=(12, 8.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    panels = top.subplots(1, 4, sharey=True)
    labels = list(run.rows.values())
    score = next((each for each in results.columns if each.name == "ae2_wr"), next(iter(results.columns), None))
    for setting, colour, offset in zip(run.settings, (BLUE, ORANGE), (-0.15, 0.15), strict=False):
        for place, row in enumerate(results.rows[setting]):
            if score is None or score.name not in row.cells:
                continue
            cell, at = row.cells[score.name], place + offset
            panels[0].plot([cell.low, cell.high], [at, at], color=colour)
            label = run.settings[setting] if place == 0 else None
            panels[0].plot([cell.value], [at], "o", color=colour, markersize=4, label=label)
            found = changes[setting][row.name]
            for axes, values in (
                (panels[1], [float(np.mean(c.margin)) for c in found]),
                (panels[2], [float(np.mean(c.end_chosen - c.start_chosen)) for c in found]),
                (panels[3], [100 * float(np.mean(c.ranked_right("end"))) for c in found]),
            ):
                axes.plot(values, [at] * len(values), "|", color=colour, markersize=7)
                axes.plot([np.mean(values)], [at], "o", color=colour, markersize=4)
    titles = (
        f"{score.title if score else 'score'}, 95% interval",
        "margin, nats",
        "log-prob of chosen,\nchange, nats",
        "ranked right at the end %",
    )
    for axes, title in zip(panels, titles, strict=True):
        rows_axis(axes, labels)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", linewidth=0.3)
    for axes, ticks in ((panels[1], (0, 2, 5, 20, 100)), (panels[2], (0, -1, -10, -100))):
        axes.set_xscale("symlog", linthresh=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
    top.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    _why(bottom.subplots(1, 3))
    save(figure, path)


def _why(panels: Sequence[Axes]) -> None:
    """Plot the expected loss of a pair against its margin when some labels are wrong, and mark its minimum."""
    u = np.linspace(-8, 20, 600)
    for wrong, axes in zip((0.0, 0.1, 0.4), panels, strict=True):
        for gamma, colour in zip((0.0, 0.05, 0.1, 0.25, 0.5), ("black", *COLOURS), strict=False):
            axes.plot(u, expected_loss(u, gamma, wrong), color=colour, label=f"gamma {gamma:g}")
            best = best_margin(gamma, wrong) if wrong else None
            if best is not None:
                axes.plot([best], [float(expected_loss(np.array([best]), gamma, wrong)[0])], "v", color=colour)
        axes.set_ylim(0, 2.2)
        axes.set_title(f"expected loss, {wrong:.0%} of labels wrong", fontsize=9)
        axes.set_xlabel("u = beta x margin; triangles: finite minima", fontsize=8)
    panels[0].legend(fontsize=8)


def noise_figure(run: TableRun, results: Results, path: Path) -> None:
    """Plot FocalPO minus DPO in win rate, and margins of training pairs with true and false labels, against noise."""
    families: dict[str, list[str]] = {}
    for setting in run.settings:
        families.setdefault(setting.rpartition("_")[0], []).append(setting)
    changes = _changes(run, "train")
    columns = results.columns
    width = max(3, len(columns))
    figure, grid = plt.subplots(2, width, figsize=(4 * width, 7), layout="constrained")
    for axes in (*grid[0][len(columns) :], *grid[1][3:]):
        axes.set_axis_off()
    for column, axes in zip(columns, grid[0], strict=False):
        for offset, colour, (family, settings) in zip((-0.7, 0.7), (BLUE, ORANGE), families.items(), strict=False):
            _differences(
                axes, [(_noise(s) + offset, _row(results, s, "focalpo")) for s in settings], column.name, colour, family
            )
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(f"FocalPO minus DPO, {column.title}", fontsize=9)
        axes.set_ylabel("points", fontsize=8)
    grid[0][0].legend(fontsize=8)
    for axes, (family, settings) in zip(grid[1], families.items(), strict=False):
        for row, colour in (("dpo", BLUE), ("focalpo", RED)):
            for style, wrong, name in (("-", False, "true labels"), ("--", True, "false labels")):
                points = [(_noise(s), _split(changes[s][row], wrong)) for s in settings if changes[s][row]]
                label = f"{run.rows[row]}, {name}"
                axes.errorbar(*_mean_and_error(points), fmt=style, color=colour, label=label, capsize=3)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(f"margin of training pairs at the end, {family}", fontsize=9)
        axes.set_ylabel("nats", fontsize=8)
    grid[1][0].legend(fontsize=8)
    last = grid[1][2]
    for colour, (family, settings) in zip((BLUE, ORANGE), families.items(), strict=False):
        points = [(_noise(s), [_right_at_end(f) - _right_at_end(d) for d, f in _pairs(changes[s])]) for s in settings]
        last.errorbar(*_mean_and_error(points), fmt="o-", color=colour, label=family, capsize=3)
    last.axhline(0, color="black", linewidth=0.8)
    last.set_title("falsely labelled pairs ranked as labelled at the end,\nFocalPO minus DPO", fontsize=9)
    last.set_ylabel("points", fontsize=8)
    for axes in grid.flat:
        axes.set_xlabel("labels flipped % (on top of the rater's own errors)", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(linewidth=0.3)
    save(figure, path)


def _changes(run: TableRun, split: str) -> Changes:
    return {setting: {row: run.changes(setting, row, split) for row in run.rows} for setting in run.settings}


def _noise(setting: str) -> float:
    return float(setting.rpartition("_")[2])


def _row(results: Results, setting: str, name: str) -> RowResult:
    return next(row for row in results.rows[setting] if row.name == name)


def _differences(axes: Axes, rows: Sequence[tuple[float, RowResult]], column: str, colour: str, label: str) -> None:
    for place, (x, row) in enumerate(rows):
        difference = row.cells[column].difference if column in row.cells else None
        if difference is not None:
            axes.plot([x, x], [difference.low, difference.high], color=colour)
            axes.plot([x], [difference.value], "o", color=colour, label=label if place == 0 else None)


def _pairs(changes: Mapping[str, Sequence[Change]]) -> list[tuple[Change, Change]]:
    """DPO and FocalPO runs of the same seed and SFT model; empty when a run is missing, since places would shift."""
    dpo, focalpo = changes["dpo"], changes["focalpo"]
    return list(zip(dpo, focalpo, strict=True)) if len(dpo) == len(focalpo) else []


def _split(found: Sequence[Change], wrong: bool) -> list[float]:
    """Mean margin, one per run, of the pairs whose label is false (`wrong`) or true."""
    return [float(np.mean(c.margin[c.mislabelled.astype(bool) == wrong])) for c in found]


def _right_at_end(found: Change) -> float:
    """Percent of the falsely labelled pairs that the policy ranks as their false label says."""
    return 100 * float(np.mean(found.ranked_right("end")[found.mislabelled.astype(bool)]))


def _mean_and_error(points: Sequence[tuple[float, Sequence[float]]]) -> tuple[list[float], list[float], list[float]]:
    """x, mean and 1.96 standard errors over runs."""
    full = [(x, np.array(values)) for x, values in points if len(values)]
    errors = [1.96 * float(v.std(ddof=1)) / len(v) ** 0.5 if len(v) > 1 else 0.0 for _, v in full]
    return [x for x, _ in full], [float(v.mean()) for _, v in full], errors
