"""Copy a sealed report, or the results of a search, to docs/, and its table into the pages that have a place for it.

python -m recipes.publish runs/report/pocket-0123456789ab
python -m recipes.publish runs/sweep/laptop-0123456789ab
python -m recipes.publish weights                          docs/weights.md: what every loss makes of a pair, by autograd
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from focalpo.reporting.published import source_of
from focalpo.reporting.weights import weights_figure, weights_page
from focalpo.running.command import run_command
from focalpo.running.words import words_of
from focalpo.stages.folder import read_manifest, verify, write_json
from focalpo.stages.origin import ROOT
from focalpo.training.objective import OBJECTIVES
from focalpo.training.weights import DETACHED, Curve, curves

FILES = {
    "report": ("summary.md", "checklist.md", "table1.md", "table1.csv", "table1.tex", "pairs.csv"),
    "sweep": ("search.md", "sweep.csv"),
}
"""What is copied of each kind of stage; the first is the table that pages show."""
MARKED = re.compile(r"(<!-- table: (docs/\w+/\w+\.md).*?-->\n).*?(<!-- end of table -->)", re.S)


def main() -> None:
    (asked,), _ = words_of("publish", sys.argv[1:])
    if asked == "weights":
        draw(ROOT)
    else:
        publish(Path(asked), ROOT)


def publish(folder: Path, root: Path) -> None:
    """Copy a sealed stage's files to docs/<name>/ under `root` with their hashes, and its table between the marks in
    README.md or docs/*.md. Only figures that a page shows are copied.

    Raises:
        ValueError: when the stage is no report or search, is not sealed, lacks a file, or no page has a place for it.
    """
    kind = folder.resolve().parent.name
    if kind not in FILES:
        raise ValueError(f"{folder} is neither a report nor a search; name one of runs/report/* or runs/sweep/*")
    verify(folder)
    files = FILES[kind]
    if lacking := [name for name in files if not (folder / name).is_file()]:
        stage = f"{kind}/{folder.resolve().name}"
        raise ValueError(f"{folder} was sealed before it had {lacking[0]}: make again STAGE={stage}, and its table")
    place = f"docs/{folder.resolve().name.rpartition('-')[0]}"
    table = f"{place}/{files[0]}"
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    marked = [page for page in pages if any(mark[1] == table for mark in MARKED.findall(page.read_text()))]
    if not marked:
        raise ValueError(f"no page in {root} has a place for {table}; mark one with <!-- table: ... -->")
    (root / place).mkdir(parents=True, exist_ok=True)
    texts = "".join(page.read_text() for page in pages)
    shown = [path for path in (folder / "figures").glob("*.png") if f"{Path(place).name}/{path.name})" in texts]
    copied = {path.name: str(path.relative_to(folder)) for path in [*(folder / name for name in files), *shown]}
    for name, origin in copied.items():
        shutil.copyfile(folder / origin, root / place / name)
    write_json(root / place / f"{kind}.json", source_of(read_manifest(folder), copied))
    text = (folder / files[0]).read_text()
    for page in marked:
        page.write_text(MARKED.sub(lambda m: m[1] + text + m[3] if m[2] == table else m[0], page.read_text()))


def draw(root: Path) -> None:
    """Write docs/weights.md and docs/weights/weights.png under `root`."""
    found = curves()
    (root / "docs/weights").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        weights_figure(found, Path(folder) / "weights")
        shutil.copyfile(Path(folder) / "weights.png", root / "docs/weights/weights.png")
    (root / "docs/weights.md").write_text(page(found))


def page(found: dict[str, Curve]) -> str:
    """docs/weights.md with the equation of every loss."""
    equations = {cls.label: cls.equation for cls in OBJECTIVES.values()}
    return weights_page(found, equations | {DETACHED: equations["FocalPO"] + ", p^gamma constant"})


if __name__ == "__main__":
    run_command(main)
