"""The weight that every loss gives a pair: one figure and one table, docs/weights.md."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from focalpo.reporting.figures import BLUE, GREEN, GREY, ORANGE, RED, save

COLUMNS = 5
SHOWN = (-60.0, -30.0, 0.0, 30.0, 60.0)
"""Margins in the table, nats."""
STYLES = {"equally long": (BLUE, "-"), "chosen twice as long": (ORANGE, "--"), "rejected twice as long": (GREEN, ":")}


class Region(Protocol):
    """Margins, nats, at which a loss gives a pair no weight, or one of the wrong sign."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def reversed(self) -> bool: ...


class Curve(Protocol):
    """A loss's weight at each margin, for each relation of lengths."""

    @property
    def margins(self) -> list[float]: ...
    @property
    def weights(self) -> dict[str, list[float]]: ...
    @property
    def of_length(self) -> bool: ...
    def at(self, margin: float) -> float: ...
    def regions(self) -> Sequence[Region]: ...


def weights_figure(curves: Mapping[str, Curve], path: Path) -> None:
    """Plot every loss's weight against the margin, and where it gives pairs up or reverses their gradient."""
    lines = -(-len(curves) // COLUMNS)
    figure, grid = plt.subplots(
        lines, COLUMNS, figsize=(11, 0.9 + 2.2 * lines), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    for (label, curve), axes in zip(curves.items(), panels, strict=False):
        _panel(axes, label, curve)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    figure.supxlabel("margin of the pair, nats; training starts at 0, pairs ranked wrong are on the left", fontsize=10)
    figure.supylabel("weight, relative to the largest", fontsize=10)
    shown = [Line2D([], [], color=colour, linestyle=style, label=name) for name, (colour, style) in STYLES.items()]
    shown += [Patch(color=GREY, alpha=0.3, label="no weight"), Patch(color=RED, alpha=0.3, label="reversed")]
    figure.legend(handles=shown, loc="outside upper center", ncols=len(shown), fontsize=9)
    save(figure, path)


def _panel(axes: Axes, label: str, curve: Curve) -> None:
    for region in curve.regions():
        axes.axvspan(
            region.low - 0.5, region.high + 0.5, color=RED if region.reversed else GREY, alpha=0.3, linewidth=0
        )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axvline(0, color=GREY, linewidth=0.6)
    for name, values in curve.weights.items() if curve.of_length else list(curve.weights.items())[:1]:
        colour, style = STYLES[name]
        axes.plot(curve.margins, values, color=colour, linestyle=style, linewidth=1.6)
    axes.set_title(label, fontsize=10, fontweight="bold", loc="left", pad=27)
    axes.text(0, 1.03, "\n".join(sacrificed(curve)), linespacing=1.1, transform=axes.transAxes, fontsize=8, va="bottom")
    axes.set_xlim(curve.margins[0], curve.margins[-1])
    axes.set_ylim(-0.4, 1.25)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks([-50, -25, 0, 25, 50])
    axes.tick_params(labelsize=8)


def sacrificed(curve: Curve) -> list[str]:
    """What a loss does with pairs that it gives up, wrong ones first: at most one line of each side of 0."""
    found = []
    for side, words in ((-1, ("given up", "reversed")), (1, ("let go", "pulled back"))):
        here = [region for region in curve.regions() if side * (region.low + region.high) > 0]
        region = next((each for each in here if each.reversed), here[side < 0 and -1] if here else None)
        if region is not None:
            edge = region.high if side < 0 else region.low
            sign, name = ("<", "wrong") if side < 0 else (">", "right")
            found.append(f"{name} {sign} {edge:g}: {words[region.reversed]}")
    return found or ["gives up none"]


def weights_page(curves: Mapping[str, Curve], equations: Mapping[str, str]) -> str:
    """docs/weights.md: the figure, and its numbers as a table."""
    header = ["Loss", *(f"{margin:g}" for margin in SHOWN), "given up or reversed", "lengths", "equation"]
    rows = [header, ["---", *["---:"] * len(SHOWN), "---", "---", "---"], *_rows(curves, equations)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return f"{PAGE}\n{table}\n"


def _rows(curves: Mapping[str, Curve], equations: Mapping[str, str]) -> Iterator[list[str]]:
    for label, curve in curves.items():
        weights = [f"{curve.at(margin):.2f}" for margin in SHOWN]
        equation = equations[label].replace("|", "\\|")
        yield [label, *weights, "; ".join(sacrificed(curve)), "yes" if curve.of_length else "no", f"`{equation}`"]


PAGE = """# What each loss does with a pair, by its margin

`python -m recipes.publish weights` makes this page: every registered loss that ranks, by autograd on its own code.

![The weight of a pair against its margin, one panel per loss](weights/weights.png)

The margin u is how far the policy has moved a pair: the chosen response is u/2 nats likelier than under the reference,
the rejected one u/2 less. The weight is -dL/du, how strongly the loss widens it, relative to the loss's largest at
equal lengths. Grey: less than a twentieth of that, so the pair is given up, or let go where it is ranked right. Red:
the gradient has the wrong sign, so a wrong pair is pushed further, or a right one pulled back. Where lengths matter,
the dashed and dotted lines show pairs of which one response is twice as long.

beta is 0.1 where log-probs are summed, responses have 40 tokens of -1.5 nats under the reference, and the batch of
beta-DPO and AMaPO has margins from -10 to 30. The other options are the defaults, but for FocalPO (gamma 0.25; at 0.05
the sign changes at -200 nats), focal loss (gamma 2), EXO (label smoothing 0.1), DPOP (penalty 5) and beta-DPO (alpha
0.01). Where a loss has a term that imitates, its pull on the chosen response is part of the weight. WPO's weight
depends on how likely the pair itself is, which the margin does not show.

The table has the weights at five margins.
"""
