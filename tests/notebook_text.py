"""The output of a notebook run on a report, as text."""

from collections.abc import Iterable
from pathlib import Path

from recipes.notebooks import NOTEBOOKS, run_notebook


def notebook_text(name: str, report: Path) -> str:
    """The texts of all outputs of a notebook."""
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    return text_of(output for cell in run_notebook(path, report).cells for output in cell.get("outputs", []))


def text_of(outputs: Iterable[dict]) -> str:
    """The texts of outputs, in order."""
    kinds = ("text/plain", "text/markdown")
    return "".join(output.get("data", {}).get(kind, "") for output in outputs for kind in kinds)
