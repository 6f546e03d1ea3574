"""The laptop scale for real: the packaged model answers, is scored by code, trained on its own answers and tabled."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETS = ("ifeval", "ifeval_new")
SMALL = [
    *("table=laptop", "rows=focalpo", "seeds=1", "data.prompts=16", "data.test_prompts=6"),
    *(
        "train.global_batch=2",
        "train.warmup_ratio=0",
        "dynamics.train_pairs=4",
        "data.sampling.max_new_tokens=64",
        "capability=none",
        "launch.threads=1",
    ),
    *(f"generate.sets.{name}.max_new_tokens=16" for name in SETS),
]


def reproduce(runs: Path) -> str:
    command = [sys.executable, "-m", "recipes.reproduce", *SMALL, f"runs={runs}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.vllm
def test_the_laptop_table_runs_from_the_package_index_to_numbers(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    said = reproduce(runs)
    assert "FocalPO, gamma 0.05" in said and "IF prompt" in said
    (report,) = (runs / "report").iterdir()
    rows = list(csv.DictReader((report / "table1.csv").read_text().splitlines()))
    values = {(row["row"], row["column"]): float(row["value"]) for row in rows}
    for name in SETS:
        followed, prompts = values["focalpo", f"{name}_instruction"], values["focalpo", f"{name}_prompt"]
        assert 0 < followed < 100 and 0 <= prompts < followed
    assert {row["prompts"] for row in rows if row["column"] == "ifeval_prompt"} == {"240"}
    manifests = {path.parent.parent.name: json.loads(path.read_text()) for path in runs.glob("*/*/manifest.json")}
    assert manifests["reward"]["facts"]["rated"] + manifests["reward"]["facts"]["not_rated"] == 5 * 22
    assert manifests["pairs"]["facts"]["train"] >= 4
    assert "nothing to do" in reproduce(runs)
