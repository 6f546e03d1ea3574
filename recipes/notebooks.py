"""Run the notebooks on a sealed report and write rendered copies to its folder; the notebooks themselves stay clean.

python -m recipes.notebooks pocket                  the newest report of a table
python -m recipes.notebooks runs/report/NAME        this report
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from focalpo.reporting.table_run import TableRun, newest_reports
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.origin import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 300


def run_notebook(path: Path, report: Path) -> nbformat.NotebookNode:
    """Run a notebook top to bottom on a report and return it with its outputs.

    Raises:
        ValueError: when a cell fails, with its error message.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | {"FOCALPO_REPORT": str(report.resolve())}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3")
    client.create_kernel_manager().transport = "ipc"  # no other user of the machine can listen
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise ValueError(f"{path.name} failed on {report}: {error.ename}: {error.evalue}") from error
    return notebook


def render(report: Path) -> list[Path]:
    """Write `<report>/notebooks/*.html`, which are self-contained and load nothing from the network.

    Raises:
        ValueError: for the report of a study, or when a notebook fails.
    """
    if study := TableRun.read(report).table["study"]:
        raise ValueError(
            f"{report} is the {study} study, which has its own figures; the notebooks read Table 1, as in SCALE=pocket"
        )
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    folder = report / "notebooks"
    folder.mkdir(exist_ok=True)
    written = []
    for path in NOTEBOOKS:
        text, _ = exporter.from_notebook_node(run_notebook(path, report))
        written.append(folder / f"{path.stem}.html")
        written[-1].write_text(text)
    return written


def main(arguments: list[str]) -> None:
    """Render the notebooks of the newest report of a table, or of the report that is named."""
    words, _ = words_of("notebooks", arguments)
    which = words[0] if words else "pocket"
    reports = [Path(which)] if Path(which).is_dir() else newest_reports(Path("runs"), which)
    if not reports:
        raise ValueError(f"no report of the {which} table found; run: make reproduce-table1 SCALE={which}")
    for path in render(reports[0]):
        print(f"  {path}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
