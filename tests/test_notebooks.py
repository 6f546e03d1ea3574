"""The notebooks are clean in git, run top to bottom on a report, and show its numbers."""

import re
from pathlib import Path

import nbformat
import pytest

from focalpo.planning.table import planned
from focalpo.stages.folder import Folder
from recipes.notebooks import NOTEBOOKS, render, run_notebook
from tests.notebook_text import text_of

FORBIDDEN = ("torch", "recipes", "focalpo.training", "requests", "http://", "https://")


def test_the_notebooks_are_the_four_that_the_readme_names() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_what_focalpo_changes",
        "02_table1",
        "03_ranking_dynamics",
        "04_judges_and_length",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_only_reads(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not [word for cell in code for word in FORBIDDEN if word in cell.source]
    assert len(cells) - len(code) >= len(code) / 2, "it explains what it shows"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_a_report_without_a_warning_and_shows_its_numbers(path: Path, sealed_report: Path) -> None:
    outputs = [output for cell in run_notebook(path, sealed_report).cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    shown = text_of(outputs)
    assert not re.search(r"\bnan\b", shown, re.I)
    if path.stem == "02_table1":
        assert (sealed_report / "summary.md").read_text().strip() in shown


def test_notebooks_reject_the_report_of_a_study(tmp_path: Path) -> None:
    folder = Folder(tmp_path, planned(["table=gamma", "seeds=1"]).report)
    with folder.being_made() as job, pytest.raises(ValueError, match="is the gamma study.*SCALE=pocket"):
        render(job.path)


@pytest.mark.slow
def test_rendered_copies_load_nothing_from_the_network(sealed_report: Path) -> None:
    for page in render(sealed_report):
        text = page.read_text()
        assert 'src="http' not in text and "data:image/png" in text or page.stem == "02_table1"
