"""The figure of trainings that repeat the author's own: our evaluations as a line, theirs as crosses."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from focalpo.reporting.anchors import QUANTITIES, Curve
from focalpo.reporting.figures import BLUE, RED, save
from focalpo.stages.author_runs import END


def anchors_figure(curves: Sequence[Curve], path: Path) -> None:
    """Plot each quantity over the steps, one line of panels per training."""
    size = (3 * len(QUANTITIES), 2.6 * len(curves))
    figure, grid = plt.subplots(len(curves), len(QUANTITIES), figsize=size, squeeze=False, layout="constrained")
    for curve, panels in zip(curves, grid, strict=True):
        for axes, (name, title) in zip(panels, QUANTITIES.items(), strict=True):
            axes.plot(list(curve.ours), [values[name] for values in curve.ours.values()], color=BLUE, label="ours")
            theirs = [(each.step, getattr(each, name)) for each in curve.run.evaluations]
            known = [(max(curve.ours) if step == END else step, value) for step, value in theirs if value is not None]
            axes.plot([step for step, _ in known], [value for _, value in known], "x", color=RED, label="author's")
            axes.set_title(title, fontsize=8)
            axes.tick_params(labelsize=7)
        panels[0].legend(fontsize=7)
        panels[0].set_ylabel(f"{curve.title}\n{curve.name}", fontsize=7)
    save(figure, path)
