"""Record the golden curve: python -m tests.golden.record_curve. Refuses a dirty tree: a curve belongs to a commit."""

import json
import sys
import tempfile
from pathlib import Path

from focalpo.stages.origin import commit, packages
from tests.test_golden_curve import FILE, curve

if __name__ == "__main__":
    if commit().endswith("+changes"):
        sys.exit("error: the tree has changes; commit first, so that the curve can name its code")
    with tempfile.TemporaryDirectory() as folder:
        values = {name: curve(name, Path(folder) / name) for name in ("dpo", "focalpo")}
    FILE.write_text(json.dumps({"commit": commit(), "packages": packages(), "loss": values}, indent=1) + "\n")
