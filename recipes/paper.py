"""Build the reproduction report from the tables in docs/, or print the claims of the abstract with their verdicts.

python -m recipes.paper             docs/paper/build/report.pdf, and its pages as pictures
python -m recipes.paper claims      the verdicts and why; README.md gets their table
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from focalpo.config.mistakes import Mistake
from focalpo.judging.protocol import EVAL
from focalpo.reporting.claims import read_claims, verdicts_of
from focalpo.reporting.claims_shown import as_latex_claims, as_markdown_claims, as_terminal_claims
from focalpo.reporting.differences_figure import differences_figure
from focalpo.reporting.paper_numbers import numbers_tex, typed_numbers
from focalpo.reporting.paper_tables import (
    against_table,
    author_table,
    cost_table,
    difference_table,
    pairs_table,
    score_table,
    weight_table,
)
from focalpo.reporting.published import Published, read_published
from focalpo.reporting.quoted import Sources
from focalpo.reporting.tex import complaints
from focalpo.reporting.verdicts import read_rule
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.author_runs import author_runs
from focalpo.stages.origin import ROOT
from focalpo.stages.reading import read_text, read_yaml

NAME = "report"
SETTINGS = ("method.tex", "setup.tex")
"""Texts that state formulas and settings; all others may hold no number that is typed by hand."""
GAMMAS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
DEBIAN = "texlive-latex-base texlive-latex-recommended poppler-utils"
CLAIMS = re.compile(r"(<!-- claims: .*?-->\n).*?(<!-- end of claims -->)", re.S)


def sources_of(root: Path) -> Sources:
    """Everything that the paper quotes: the published tables under `root`, the claims, the author's runs."""
    margin = read_rule(EVAL / "verdicts.yaml").equivalent
    tables: dict[str, Published] = {}
    for file in sorted((ROOT / "conf/table").glob("*.yaml")):
        found = read_published(root / "docs" / file.stem, read_yaml(file, "correct it"), margin)
        if found is not None:
            tables[file.stem] = found
    claims = read_claims(EVAL / "claims.yaml")
    printed = read_yaml(EVAL / "paper_table1.yaml", "correct it")["numbers"]
    return Sources(tables, claims, verdicts_of(claims, tables), author_runs(), printed)


def write_inputs(root: Path) -> Path:
    """Write what the text inputs into docs/paper/build/: numbers.tex, tables and a figure. Returns that folder.

    Raises:
        ValueError: when a sentence about results holds a number that is typed by hand, or a key names nothing.
    """
    folder = root / "docs/paper"
    texts = {file.name: read_text(file) for file in sorted(folder.glob("*.tex"))}
    for name, text in texts.items():
        typed = typed_numbers(text.partition("\\begin{document}")[2] or text)
        if name not in SETTINGS and typed:
            raise ValueError(f"{folder / name} has a number that is typed by hand; quote it by \\val: {typed[0]}")
    sources, build = sources_of(root), folder / "build"
    build.mkdir(exist_ok=True)
    (build / "numbers.tex").write_text(numbers_tex(texts, sources))
    for name, text in _tables(sources).items():
        (build / f"{name}.tex").write_text(text + "\n")
    scales = [scale.table for scale in sources.claims.scales.values()]
    shown = [sources.tables[name] for name in (*scales, "noise") if name in sources.tables]  # others repeat these rows
    differences_figure(shown, sources.claims.subject, build / "differences")
    return build


def _tables(sources: Sources) -> dict[str, str]:
    tables, claims = sources.tables, sources.claims
    found = {
        "claims": as_latex_claims(claims, sources.verdicts),
        "author": author_table(sources.author),
        "weights": weight_table(GAMMAS, sources),
        "cost": cost_table(list(tables.values())),
    }
    for name, table in tables.items():
        found |= {
            f"scores_{name}": score_table(table),
            f"differences_{name}": difference_table(table, claims.subject),
            f"against_{name}": against_table(table),
        }
        if table.pairs:
            found[f"pairs_{name}"] = pairs_table(table, claims.subject, claims.compared)
    return found


def compiled(folder: Path, name: str, build: Path) -> Path:
    """Run LaTeX and BibTeX on <folder>/<name>.tex, and return <build>/<name>.pdf.

    Raises:
        ValueError: when LaTeX is missing or fails, a reference or citation is undefined, or a box is overfull.
    """
    if shutil.which("pdflatex") is None:
        raise Mistake(f"pdflatex was not found; install LaTeX, on Debian {DEBIAN}")
    environment = os.environ | {"max_print_line": "10000", "BIBINPUTS": f"{folder}:", "TEXMFOUTPUT": str(build)}
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={build}", f"{name}.tex"]
    for command in (latex, ["bibtex", str(build / name)], latex, latex):
        cites = "\\citation" in (build / f"{name}.aux").read_text() if command is not latex else True
        if cites and subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode:
            raise ValueError(f"{command[0]} failed on {folder / name}.tex: {_first_complaint(build, name)}")
    if found := complaints((build / f"{name}.log").read_text(errors="replace")):
        raise ValueError(f"{build / name}.pdf is not clean: {'; '.join(found)}")
    return build / f"{name}.pdf"


def _first_complaint(build: Path, name: str) -> str:
    log = build / f"{name}.log"
    found = complaints(log.read_text(errors="replace")) if log.is_file() else []
    return next((each for each in found if each.startswith("!")), f"see {log}")


def pictures(pdf: Path) -> list[Path]:
    """The pages as PNG, in order, for someone to look at; none where pdftoppm is missing."""
    if shutil.which("pdftoppm") is None:
        return []
    for old in pdf.parent.glob(f"{pdf.stem}-*.png"):
        old.unlink()
    subprocess.run(["pdftoppm", "-r", "80", "-png", str(pdf), str(pdf.with_suffix(""))], check=True)
    return sorted(pdf.parent.glob(f"{pdf.stem}-*.png"))


def build_paper(root: Path) -> None:
    """Write docs/paper/build/report.pdf and say where it is."""
    build = write_inputs(root)
    pdf = compiled(root / "docs/paper", NAME, build)
    found = pictures(pdf)
    pages = f"; look at its {len(found)} pages: {found[0]} ..." if found else f"; {DEBIAN} would draw its pages"
    print(f"{pdf}{pages}")


def show_claims(root: Path) -> None:
    """Print the claims with their verdicts, and put their table between the marks in README.md."""
    sources = sources_of(root)
    print(as_terminal_claims(sources.claims, sources.verdicts))
    readme = root / "README.md"
    text = as_markdown_claims(sources.claims, sources.verdicts)
    readme.write_text(CLAIMS.sub(lambda mark: f"{mark[1]}{text}\n{mark[2]}", readme.read_text()))


def main(arguments: list[str]) -> None:
    words, _ = words_of("paper", arguments)
    (show_claims if words else build_paper)(ROOT)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
