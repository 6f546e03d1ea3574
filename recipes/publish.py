"""Copy a sealed report to docs/ and its summary into the pages that have a place for it.

python -m recipes.publish runs/report/pocket-0123456789ab
"""

import re
import shutil
import sys
from pathlib import Path

from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.folder import verify
from focalpo.stages.origin import ROOT

FILES = ("summary.md", "checklist.md", "table1.md", "table1.csv", "table1.tex")
MARKED = re.compile(r"(<!-- table: (docs/\w+)/summary.md.*?-->\n).*?(<!-- end of table -->)", re.S)


def publish(report: Path, root: Path) -> None:
    """Copy a sealed report to docs/<name>/ under `root`, and its summary between the marks in README.md or docs/*.md.

    Only figures that a page shows are copied.

    Raises:
        ValueError: when the report is not sealed, or no page has a place for it.
    """
    verify(report)
    place = f"docs/{report.name.rpartition('-')[0]}"
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    marked = [page for page in pages if any(mark[1] == place for mark in MARKED.findall(page.read_text()))]
    if not marked:
        raise ValueError(f"no page in {root} has a place for {place}/summary.md; mark one with <!-- table: ... -->")
    (root / place).mkdir(parents=True, exist_ok=True)
    texts = "".join(page.read_text() for page in pages)
    shown = [path for path in (report / "figures").glob("*.png") if f"{Path(place).name}/{path.name})" in texts]
    for path in [*(report / name for name in FILES), *shown]:
        shutil.copyfile(path, root / place / path.name)
    summary = (report / "summary.md").read_text()
    for page in marked:
        text = MARKED.sub(lambda m: m[1] + summary + m[3] if m[2] == place else m[0], page.read_text())
        page.write_text(text)


if __name__ == "__main__":
    run_command(lambda: publish(Path(words_of("publish", sys.argv[1:])[0][0]), ROOT))
