"""Draw the weight that every loss gives a pair against its margin: docs/weights.md and its figure.

python -m recipes.weights
"""

import shutil
import sys
import tempfile
from pathlib import Path

from focalpo.reporting.weights import weights_figure, weights_page
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.origin import ROOT
from focalpo.training.objective import OBJECTIVES
from focalpo.training.weights import DETACHED, Curve, curves


def main() -> None:
    words_of("weights", sys.argv[1:])
    draw(ROOT)


def draw(root: Path) -> None:
    """Write docs/weights.md and docs/weights/weights.png under `root`."""
    found = curves()
    (root / "docs/weights").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        weights_figure(found, Path(folder) / "weights")
        shutil.copyfile(Path(folder) / "weights.png", root / "docs/weights/weights.png")
    (root / "docs/weights.md").write_text(page(found))
    print("docs/weights.md")


def page(found: dict[str, Curve]) -> str:
    """docs/weights.md with the equation of every loss."""
    equations = {cls.label: cls.equation for cls in OBJECTIVES.values()}
    detached = {label + DETACHED: f"{equation}, its factor constant" for label, equation in equations.items()}
    return weights_page(found, equations | detached)


if __name__ == "__main__":
    run_command(main)
