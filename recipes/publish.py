"""Copy a sealed report, or the results of a search, to docs/, and its tables into the pages that have a place for them.

Of a search, each value is named that was chosen and is not what its table trains with.

python -m recipes.publish runs/report/pocket-0123456789ab
python -m recipes.publish runs/sweep/laptop-0123456789ab
"""

import re
import shutil
import sys
from pathlib import Path

from focalpo.config.compose import compose_table
from focalpo.planning.chosen import chosen, undeclared
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.folder import verify
from focalpo.stages.origin import ROOT

FILES = {
    "report": ("summary.md", "checklist.md", "table1.md", "table1.csv", "table1.tex"),
    "sweep": ("chosen.md", "search.md", "sweep.csv"),
}
"""What is copied of each kind of stage."""
MARKED = re.compile(r"(<!-- table: (docs/\w+/\w+\.md).*?-->\n).*?(<!-- end of table -->)", re.S)


def publish(folder: Path, root: Path) -> None:
    """Copy a sealed stage's files to docs/<name>/ under `root`, and those that README.md or docs/*.md have marks for
    between the marks. Only figures that a page shows are copied.

    Raises:
        ValueError: when the stage is no report or search, is not sealed, or no page has a place for it.
    """
    if folder.resolve().parent.name not in FILES:
        raise ValueError(f"{folder} is neither a report nor a search; name one of runs/report/* or runs/sweep/*")
    verify(folder)
    kind, name = folder.resolve().parent.name, folder.resolve().name.rpartition("-")[0]
    if missing := [file for file in FILES[kind] if not (folder / file).is_file()]:
        raise ValueError(f"{folder} has no {missing[0]}, as other code made it; run the command that made it again")
    files = [*FILES[kind], *sorted(path.name for path in folder.glob("fixes.*"))]  # where something was trained
    texts = {f"docs/{name}/{file}": (folder / file).read_text() for file in files}
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    marked = [page for page in pages if any(mark[1] in texts for mark in MARKED.findall(page.read_text()))]
    if not marked:
        raise ValueError(f"no page in {root} has a place for {next(iter(texts))}; mark one with <!-- table: ... -->")
    (root / "docs" / name).mkdir(parents=True, exist_ok=True)
    for place, text in texts.items():
        (root / place).write_text(text)
    read = "".join(page.read_text() for page in pages)
    for figure in (folder / "figures").glob("*.png"):
        if f"{name}/{figure.name})" in read:
            shutil.copyfile(figure, root / "docs" / name / figure.name)
    for page in marked:
        page.write_text(MARKED.sub(lambda m: m[1] + texts[m[2]] + m[3] if m[2] in texts else m[0], page.read_text()))
    if kind == "sweep":
        for line in undeclared(compose_table(name), chosen(texts[f"docs/{name}/sweep.csv"])):
            print(line)


if __name__ == "__main__":
    run_command(lambda: publish(Path(words_of("publish", sys.argv[1:])[0][0]), ROOT))
