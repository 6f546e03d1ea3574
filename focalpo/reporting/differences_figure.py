"""The figure of the paper: FocalPO minus DPO in every published table, with the margin of equivalence."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from focalpo.reporting.claims_about_scores import scores_of
from focalpo.reporting.figures import BLUE, GREY, RED
from focalpo.reporting.published import Published


def differences_figure(tables: Sequence[Published], row: str, path: Path) -> None:
    """Draw a row's differences with 95% intervals, one line per score, grouped by table, as a PDF."""
    lines = [(table.name, score) for table in tables for score in scores_of(table.results, row)]
    figure, axes = plt.subplots(figsize=(6.5, 0.6 + 0.125 * max(1, len(lines))), layout="constrained")
    for place, (_, score) in enumerate(lines):
        colour = RED if score.sign else BLUE
        axes.plot([score.difference.low, score.difference.high], [place, place], color=colour, linewidth=1.2)
        axes.plot([score.difference.value], [place], "o", color=colour, markersize=3)
    for place in range(1, len(lines)):
        if lines[place][0] != lines[place - 1][0]:
            axes.axhline(place - 0.5, color=GREY, linewidth=0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    for side in (-1, 1):
        axes.axvline(side * tables[0].results.margin if tables else 0, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(lines)), [f"{name}: {score.title}" for name, score in lines], fontsize=5.5)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("FocalPO minus DPO, points; dashed: the margin of equivalence", fontsize=7)
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)
