"""A search expands as in Hydra's multirun, trains as stages and shows every point; the rule picks the best."""

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from focalpo.config.compose import CONF, compose, compose_table
from focalpo.config.overrides import expand
from focalpo.planning.search import search as points_of
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.records import PairState, write_records
from recipes.publish import publish
from recipes.sweep import make


def test_a_search_is_the_product_of_its_values_in_their_order() -> None:
    lines = ["objective.beta=0.1,0.3", "train.learning_rate=1e-4,choice(2e-4,4e-4)"]
    points = expand(["objective.beta=0.1,0.3", "seed=range(1,3)"], [])
    assert points == [[f"objective.beta={beta}", f"seed={seed}"] for beta in ("0.1", "0.3") for seed in (1, 2)]
    assert len(expand(lines[:1], ["train.epochs=1"])) == 2


def test_an_override_replaces_values_of_the_search() -> None:
    search = ["objective.beta=0.1,0.3", "train.learning_rate=1e-4,2e-4"]
    points = expand(search, ["objective.beta=5", "train.max_steps=3"])
    assert points == [
        [f"train.learning_rate={rate}", "objective.beta=5", "train.max_steps=3"] for rate in ("0.0001", "0.0002")
    ]


def test_an_invalid_search_is_one_line() -> None:
    with pytest.raises(ValueError) as error:
        expand([], ["objective.beta=choice(1"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["paper", "one_gpu", "pocket"])
def test_every_search_belongs_to_a_row_and_its_first_and_last_points_are_valid(name: str) -> None:
    table = compose_table(name)
    column = next(iter(table.settings.values()))
    for row, search in table.searches.items():
        assert table.rows[row].trained
        points = expand(search, [])
        for point in (points[0], points[-1]):
            config = compose([*column.overrides, f"experiment={column.experiments}/{row}", *point])
            assert config.train.learning_rate == float(dict(p.split("=") for p in point)["train.learning_rate"])
    if name == "paper":
        assert table.searches.keys() == {row for row, values in table.rows.items() if values.trained}


def test_a_row_without_a_search_is_left_out_of_the_tables_search() -> None:
    rows = [row for _, row, _ in points_of(["table=laptop"])[1]]
    assert len(rows) == 24 and "gamma_0.025" not in rows
    assert [row for _, row, _ in points_of(["table=laptop", "rows=gamma_0.025", "objective.beta=1,2"])[1]] == [
        "gamma_0.025"
    ] * 2


def state(step: int, name: str, chosen: float) -> PairState:
    return PairState(step, "test", name, chosen, -5.0, 3, 3, None)


def test_the_most_accurate_point_of_a_row_is_best_and_ties_go_to_the_first(tmp_path: Path) -> None:
    accuracies = [0.5, 0.75, 0.75, None, 0.25]
    rows = ["dpo", "dpo", "dpo", "dpo", "focalpo"]
    inputs = {}
    for number, accuracy in enumerate(accuracies):
        if accuracy is None:
            continue
        stage = Stage("train", f"point-{number}", {"number": number})
        with Folder(tmp_path, stage).being_made() as job:
            states = [state(step, f"p{n}", 0.0) for step in (0, 1) for n in range(4)]
            write_records(job.path / "dynamics.parquet", states)
        Folder(tmp_path, stage).seal(1.0, {"test": {"reward_accuracy": accuracy, "margin": 2.0}})
        inputs[str(number)] = stage
    points = [{"setting": "base", "row": row, "overrides": [f"a={n}"]} for n, row in enumerate(rows)]
    with Folder(tmp_path, Stage("sweep", "pocket", {"points": points}, inputs)).being_made() as job:
        assert make(job) == {"points": 5, "failed": 1}
        found = list(csv.DictReader(StringIO((job.path / "sweep.csv").read_text())))
        lines = (job.path / "sweep.txt").read_text().splitlines()
        shown = (job.path / "search.md").read_text()
    assert [row["best"] for row in found] == ["", "best", "", "", "best"]
    assert lines[3].endswith("failed") and lines[1].endswith("best")
    assert (
        "| dpo | **a=1** | 75.0 ±21.7 | 2.0 |\n| dpo | a=2 | 75.0 ±21.7 | 2.0 |\n| dpo | a=3 | failed |  |\n" in shown
    )
    assert float(found[1]["standard_error"]) == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_a_search_is_published_into_the_page_that_has_a_place_for_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path, Stage("sweep", "laptop", {"points": []}))
    with folder.being_made() as job:
        make(job)
        folder.seal(1.0)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "scales.md"
    page.write_text("<!-- table: docs/laptop/search.md -->\nstale\n<!-- end of table -->\n")
    (tmp_path / "README.md").write_text("<!-- table: docs/laptop/summary.md -->\nkept\n<!-- end of table -->\n")
    publish(folder.path, tmp_path)
    assert "held-out reward accuracy" in page.read_text() and "stale" not in page.read_text()
    assert "kept" in (tmp_path / "README.md").read_text()
    assert {path.name for path in (tmp_path / "docs/laptop").iterdir()} == {"search.md", "sweep.csv"}
    with pytest.raises(ValueError, match="neither a report nor a search"):
        publish(tmp_path / "docs", tmp_path)


@pytest.mark.slow
def test_a_sweep_trains_its_points_and_shares_what_they_have_in_common(tmp_path: Path) -> None:
    small = ["model.phases.pretraining.count=640", "model.phases.pretraining.train.max_steps=20"]
    small += ["model.phases.sft.count=320", "data.prompts=200", "train.max_steps=2", "dynamics.train_pairs=20"]
    search = ["rows=focalpo", "objective.gamma=0,0.1", "objective.beta=0.3", "train.learning_rate=6e-4"]
    command = [sys.executable, "-m", "recipes.sweep", f"runs={tmp_path}", *search, *small]
    result = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=800)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 points" in result.stdout and result.stdout.count("best") == 2
    kinds = [path.parent.parent.name for path in tmp_path.glob("*/*/manifest.json")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "sft": 2, "pairs": 2, "reference": 2, "train": 4, "sweep": 1,
    }  # fmt: skip
    (manifest,) = tmp_path.glob("sweep/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"] == {"points": 4, "failed": 0}
