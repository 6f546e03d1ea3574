"""Copy a sealed report, or the results of a search, to docs/, and its tables into the pages that have a place for them.

Of a search, each value is named that was chosen and is not what its table trains with.

python -m recipes.publish runs/report/pocket-0123456789ab
python -m recipes.publish runs/sweep/laptop-0123456789ab
python -m recipes.publish weights                          docs/weights.md: what every loss makes of a pair, by autograd
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from focalpo.config.compose import compose_table
from focalpo.planning.chosen import chosen, undeclared
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
    "sweep": ("chosen.md", "search.md", "sweep.csv"),
}
"""What is copied of each kind of stage."""
MARKED = re.compile(r"(<!-- table: (docs/\w+/\w+\.md).*?-->\n).*?(<!-- end of table -->)", re.S)


def main() -> None:
    (asked,), _ = words_of("publish", sys.argv[1:])
    if asked == "weights":
        draw(ROOT)
    else:
        publish(Path(asked), ROOT)


def publish(folder: Path, root: Path) -> None:
    """Copy a sealed stage's files to docs/<name>/ under `root` with their hashes, and those that README.md or docs/*.md
    have marks for between the marks. Only figures that a page shows are copied.

    Raises:
        ValueError: when the stage is no report or search, is not sealed, lacks a file, or no page has a place for it.
    """
    kind, name = folder.resolve().parent.name, folder.resolve().name.rpartition("-")[0]
    if kind not in FILES:
        raise ValueError(f"{folder} is neither a report nor a search; name one of runs/report/* or runs/sweep/*")
    verify(folder)
    if lacking := [file for file in FILES[kind] if not (folder / file).is_file()]:
        stage = f"{kind}/{folder.resolve().name}"
        raise ValueError(f"{folder} was sealed before it had {lacking[0]}: make again STAGE={stage}, and its table")
    files = [*FILES[kind], *sorted(path.name for path in folder.glob("fixes.*"))]  # where something was trained
    texts = {f"docs/{name}/{file}": (folder / file).read_text() for file in files}
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    marked = [page for page in pages if any(mark[1] in texts for mark in MARKED.findall(page.read_text()))]
    if not marked:
        raise ValueError(f"no page in {root} has a place for {next(iter(texts))}; mark one with <!-- table: ... -->")
    (root / "docs" / name).mkdir(parents=True, exist_ok=True)
    read = "".join(page.read_text() for page in pages)
    shown = [path for path in (folder / "figures").glob("*.png") if f"{name}/{path.name})" in read]
    copied = {path.name: str(path.relative_to(folder)) for path in [*(folder / file for file in files), *shown]}
    for file, origin in copied.items():
        shutil.copyfile(folder / origin, root / "docs" / name / file)
    write_json(root / "docs" / name / f"{kind}.json", source_of(read_manifest(folder), copied))
    for page in marked:
        page.write_text(MARKED.sub(lambda m: m[1] + texts[m[2]] + m[3] if m[2] in texts else m[0], page.read_text()))
    if kind == "sweep":
        for line in undeclared(compose_table(name), chosen(texts[f"docs/{name}/sweep.csv"])):
            print(line)


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
    detached = {label + DETACHED: f"{equation}, its factor constant" for label, equation in equations.items()}
    return weights_page(found, equations | detached)


if __name__ == "__main__":
    run_command(main)
