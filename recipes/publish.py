"""Put a finished table into docs/ and the README, so that both show what was really produced.

python -m recipes.publish runs/report/pocket-0123456789ab
"""

import re
import shutil
import sys
from pathlib import Path

from focalpo.artifact import verify
from focalpo.plan import EVAL
from recipes.command import explained

FILES = ("table1.md", "table1.csv", "table1.tex", "table1.png", "dynamics.png")
MARKED = re.compile(r"(<!-- table: (docs/\w+)/table1.md.*?-->\n).*?(<!-- end of table -->)", re.S)


def publish(report: Path, root: Path) -> None:
    """Copy a sealed report to docs/<scale>/ under `root`, and its table between the README's marks.

    Raises:
        ValueError: when the report is not sealed, or the README has no place for a table of its scale.
    """
    verify(report)
    scale = report.name.partition("-")[0]
    readme = root / "README.md"
    found = MARKED.search(readme.read_text())
    if found is None or found[2] != f"docs/{scale}":
        raise ValueError(f"{readme} has no place for docs/{scale}/table1.md; mark one with <!-- table: ... -->")
    (root / "docs" / scale).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(report / name, root / "docs" / scale / name)
    table = (report / "table1.md").read_text()
    readme.write_text(MARKED.sub(lambda marks: marks[1] + table + marks[3], readme.read_text()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: name the report's folder: python -m recipes.publish runs/report/NAME")
    explained(lambda: publish(Path(sys.argv[1]), EVAL.parent))
