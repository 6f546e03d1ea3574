"""A search expands as in Hydra's multirun, trains as stages and shows every point; the rule picks the best."""

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from focalpo.config.compose import CONF, compose, compose_table
from focalpo.config.overrides import expand
from focalpo.planning.chosen import chosen, undeclared
from focalpo.planning.search import held_out_stage, places, point_of
from focalpo.planning.search import search as points_of
from focalpo.planning.stages import train_stage
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.records import PairState, write_records
from focalpo.stages.suites import lm_eval_version
from recipes.publish import publish
from recipes.sweep import make

SEARCHED = sorted(path.stem for path in (CONF / "table").glob("*.yaml") if compose_table(path.stem).searches)
TUNED = [name for name in SEARCHED if compose_table(name).search_seeds]


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


@pytest.mark.parametrize("name", SEARCHED)
def test_every_search_belongs_to_a_row_and_its_first_and_last_points_are_valid(name: str) -> None:
    table = compose_table(name)
    column = next(iter(table.settings.values()))
    for row, search in table.searches.items():
        assert table.rows[row].trained
        points = expand(search, [])
        for point in (points[0], points[-1]):
            config = compose([*column.overrides, f"experiment={column.experiments}/{row}", *point])
            assert config.train.learning_rate == float(dict(p.split("=") for p in point)["train.learning_rate"])


@pytest.mark.parametrize("name", TUNED)
def test_every_row_of_a_table_is_searched_alike_and_with_seeds_that_the_table_does_not_have(name: str) -> None:
    """Equal budgets: as many points, seeds and settings for each. A row of another one's experiment has its search."""
    table = compose_table(name)
    found = places(table, [], table.search_settings)
    searched = {values.experiment or row for row, values in table.rows.items() if values.trained}
    assert searched == table.searches.keys() == {row for _, row, _ in found}
    trainings = Counter((setting, row) for setting, row, _ in found)
    settings = {setting for setting, _ in trainings}
    assert len(set(trainings.values())) == 1 and len(trainings) == len(settings) * len(searched)
    assert len({sum(row == each for each, _ in {(r, point_of(p)) for _, r, p in found}) for row in searched}) == 1
    first = compose(table.settings[next(iter(settings))].overrides).seed
    trained = {seed for values in table.rows.values() for seed in range(first, first + values.seeds)}
    assert table.search_seeds and not trained & set(table.search_seeds)


def test_a_row_without_a_search_is_left_out_of_the_tables_search() -> None:
    rows = [row for _, row, _ in points_of(["table=laptop"])[1]]
    assert len(rows) == 24 and "gamma_0.025" not in rows
    assert [row for _, row, _ in points_of(["table=laptop", "rows=gamma_0.025", "objective.beta=1,2"])[1]] == [
        "gamma_0.025"
    ] * 2


def state(step: int, name: str, chosen: float) -> PairState:
    return PairState(step, "test", name, chosen, -5.0, 3, 3, None)


Trainings = dict[tuple[str, str, str], list[float | None]]  # (setting, row, point) -> accuracy with each seed


def made(
    tmp_path: Path, trainings: Trainings, experiments: dict[str, str], by: str = "reward_accuracy"
) -> dict[str, str]:
    """The files of a sweep whose trainings ended with these accuracies on four held-out pairs, and with answers that
    have the higher a reward the lower it is."""
    points, inputs = [], {}
    for (setting, row, point), accuracies in trainings.items():
        for seed, accuracy in enumerate(accuracies):
            place = {"setting": setting, "experiments": experiments[setting], "row": row}
            points.append(place | {"overrides": [*point.split(), f"seed={seed}"]})
            if accuracy is None:
                continue
            stage = Stage("train", "point", {"number": len(points)})
            with Folder(tmp_path, stage).being_made() as job:
                states = [state(step, f"p{n}", 0.0) for step in (0, 1) for n in range(4)]
                write_records(job.path / "dynamics.parquet", states)
                Folder(tmp_path, stage).seal(1.0, {"test": {"reward_accuracy": accuracy, "margin": 2.0}})
            inputs[str(len(points) - 1)] = stage
            answers = Stage("held_out", "point", {"number": len(points)})
            with (rated := Folder(tmp_path, answers)).being_made():
                rated.seal(1.0, {"prompts": 4, "reward": 1 - accuracy, "standard_error": 0.05})
            inputs[f"{len(points) - 1}/answers"] = answers
    folder = Folder(tmp_path, Stage("sweep", "pocket", {"by": by, "points": points}, inputs))
    with folder.being_made() as job:
        folder.seal(1.0, make(job))
        return {path.name: path.read_text() for path in job.path.iterdir() if path.suffix != ".json"}


def test_the_most_accurate_point_of_a_row_is_best_and_ties_go_to_the_first(tmp_path: Path) -> None:
    accuracies = {"a=0": 0.5, "a=1": 0.75, "a=2": 0.75, "a=3": None}
    trainings = {("base", "dpo", point): [value] for point, value in accuracies.items()}
    files = made(tmp_path, trainings | {("base", "focalpo", "a=4"): [0.25]}, {"base": "pocket"})
    found = list(csv.DictReader(StringIO(files["sweep.csv"])))
    lines = files["sweep.txt"].splitlines()
    assert [row["best"] for row in found] == ["", "best", "", "", "best"]
    assert lines[3].endswith("failed") and lines[1].endswith("best")
    assert (
        "| dpo | **a=1** | 75.0 ±21.7 | 2.0 |\n| dpo | a=2 | 75.0 ±21.7 | 2.0 |\n| dpo | a=3 | failed |  |\n"
        in (files["search.md"])
    )
    assert "| dpo | a=1 | 75.0 ±21.7 | 75.0 | 4 | 0 |\n| focalpo | a=4 | 25.0 ±21.7 |  | 1 | 0 |" in files["chosen.md"]
    assert float(found[1]["standard_error"]) == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert json.loads(next(tmp_path.glob("sweep/*/manifest.json")).read_text())["facts"] == {
        "points": 5, "trainings": 5, "failed": 1
    }  # fmt: skip


def test_a_search_by_rewards_shows_the_accuracy_beside_them(tmp_path: Path) -> None:
    """The point with the lower accuracy has the answers with the higher reward."""
    trainings: Trainings = {
        ("base", "dpo", "a=1"): [0.75],
        ("base", "dpo", "a=2"): [0.5],
        ("base", "dpo", "a=3"): [None],
    }
    files = made(tmp_path, trainings, {"base": "pocket"}, "answer_reward")
    assert chosen(files["sweep.csv"]) == {("base", "dpo"): ["a=2"]}
    assert "| dpo | **a=2** | 0.500 ±0.050 | 50.0 | 2.0 |\n| dpo | a=3 | failed |  |  |" in files["search.md"]
    assert "| dpo | a=2 | 0.500 ±0.050 | 0.250 | 3 | 0 |" in files["chosen.md"]
    assert files["chosen.md"].endswith("Rows in which another point has a higher held-out reward accuracy: 1 of 1.\n")
    assert "The rule: the highest reward, and" in files["chosen.md"] and "own answers" in files["search.md"]
    assert (
        files["sweep.txt"].splitlines()[1].endswith("reward 0.500 +- 0.050  accuracy 0.500  margin    2.000 nats  best")
    )


def test_rewards_of_answers_are_refused_for_pairs_without_a_reward() -> None:
    table, configs = points_of(["table=paper", "rows=dpo", "settings=base"])
    config = next(iter(configs.values()))
    train = train_stage(config, "base-dpo")
    assert held_out_stage(table, config, train) is None
    with pytest.raises(ValueError, match="search_by=answer_reward: the labels of data=ultrafeedback_binarized"):
        held_out_stage(replace(table, search_by="answer_reward"), config, train)


def test_the_prompts_that_labelled_the_pairs_say_what_answers_to_them_must_follow() -> None:
    table, configs = points_of(["table=laptop", "rows=dpo"])
    config = next(iter(configs.values()))
    found = held_out_stage(table, config, train := train_stage(config, "laptop-dpo"))
    assert found is not None and found.inputs.keys() == {"model", "pairs", "prompts"}
    assert found.inputs["prompts"].key == train.inputs["pairs"].inputs["rated"].inputs["prompts"].key
    assert found.settings["checkers"] == lm_eval_version() and "code" not in found.settings


def test_settings_that_share_values_have_one_point_and_others_their_own(tmp_path: Path) -> None:
    """Means over seeds: a=1 has .5 and 1, together .75; a=2 has .75 and .5; a=3 lost a training and is out.

    The standard error of a=1: .25 and .75 on four pairs have sqrt(.1875/4) = .2165 each, 1 and 1 have none; of the mean
    over both settings it is half of that. With its own folder each setting has its own best.
    """
    both = {"a=1": ([0.25, 0.75], [1.0, 1.0]), "a=2": ([1.0, 0.5], [0.5, 0.5]), "a=3": ([1.0, 1.0], [1.0, None])}
    trainings: Trainings = {
        (setting, "dpo", point): values[place]
        for place, setting in enumerate(("base", "instruct"))
        for point, values in both.items()
    }
    shared = made(tmp_path / "shared", trainings, {"base": "pocket", "instruct": "pocket"})
    assert chosen(shared["sweep.csv"]) == {("base", "dpo"): ["a=1"], ("instruct", "dpo"): ["a=1"]}
    assert "| dpo | **a=1** | 50.0 | 100.0 | 75.0 ±10.8 | 2.0 |" in shared["search.md"]
    assert "| dpo | a=3 |  |  | failed |  |" in shared["search.md"]
    assert len(shared["sweep.csv"].splitlines()) == 1 + 12, "every training is published"
    own = made(tmp_path / "own", trainings, {"base": "mistral", "instruct": "llama"})
    assert chosen(own["sweep.csv"]) == {("base", "dpo"): ["a=3"], ("instruct", "dpo"): ["a=1"]}


def test_a_row_that_trains_with_other_values_than_its_search_chose_is_named() -> None:
    table = compose_table("pocket")
    for setting in table.settings:
        assert undeclared(table, {(setting, "dpo"): ["objective.beta=0.30", "train.learning_rate=6e-4"]}) == []
    found = {(setting, "dpo"): ["objective.beta=1", "train.learning_rate=6e-4"] for setting in table.settings}
    assert undeclared(table, found) == [
        "pocket/dpo trains with objective.beta=0.3, its search chose 1.0: correct conf/experiment/pocket/dpo.yaml"
    ]
    own = {("laptop", "gamma_0.025"): ["objective.gamma=0.5", "train.epochs=3"]}
    assert [line.split(":")[0] for line in undeclared(compose_table("laptop"), own)] == [
        "laptop/focalpo trains with objective.gamma=0.025, its search chose 0.5",
        "laptop/focalpo trains with train.epochs=1, its search chose 3",
    ]


@pytest.mark.parametrize("name", TUNED)
def test_a_published_search_is_whole_and_its_table_trains_with_what_it_chose(name: str) -> None:
    """Whole for every row of the published table; where its own search leaves a row out, its scale's table has it."""
    docs = CONF.parent / "docs"
    table = compose_table(name)
    rows = {line["row"] for line in published_lines(docs / name / "table1.csv")} & table.searches.keys()
    own = published_lines(docs / name / "sweep.csv")
    others = {row for row in rows if row not in {line["row"] for line in own}}
    lines = own + [line for line in published_lines(docs / table.scale / "sweep.csv") if line["row"] in others]
    planned = {
        (setting, row, " ".join(each)) for setting, row, each in places(table, [], table.search_settings) if row in rows
    }
    assert {(line["setting"], line["row"], f"{line['point']} seed={line['seed']}") for line in lines} == planned
    assert undeclared(table, chosen((docs / name / "sweep.csv").read_text())) == []


def published_lines(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(file.read_text())))


def test_a_search_is_published_into_the_page_that_has_a_place_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, {("base", "dpo", "objective.beta=1"): [0.5]}, {"base": "pocket"})
    (folder,) = (tmp_path / "sweep").iterdir()
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "scales.md"
    marks = "<!-- table: docs/pocket/{}.md -->\nstale\n<!-- end of table -->\n"
    page.write_text(marks.format("search") + marks.format("chosen"))
    (tmp_path / "README.md").write_text(marks.format("summary"))
    publish(folder, tmp_path)
    assert page.read_text().count("| dpo |") == 2 and "stale" not in page.read_text()
    assert "stale" in (tmp_path / "README.md").read_text()
    assert {path.name for path in (tmp_path / "docs/pocket").iterdir()} == {
        *("chosen.md", "search.md", "sweep.csv", "sweep.json")
    }
    assert "pocket/dpo trains with objective.beta=0.3, its search chose 1.0" in capsys.readouterr().out
    with pytest.raises(ValueError, match="neither a report nor a search"):
        publish(tmp_path / "docs", tmp_path)


@pytest.mark.slow
def test_a_sweep_trains_its_points_and_shares_what_they_have_in_common(tmp_path: Path) -> None:
    small = ["model.phases.pretraining.count=640", "model.phases.pretraining.train.max_steps=20"]
    small += ["model.phases.sft.count=320", "data.prompts=200", "train.max_steps=2", "dynamics.train_pairs=20"]
    search = ["rows=focalpo", "objective.gamma=0,0.1", "objective.beta=0.3", "train.learning_rate=6e-4", "seed=3"]
    command = [sys.executable, "-m", "recipes.sweep", f"runs={tmp_path}", *search, *small]
    result = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=800)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 trainings" in result.stdout and result.stdout.count("best") == 1
    kinds = [path.parent.parent.name for path in tmp_path.glob("*/*/manifest.json")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "sft": 2, "pairs": 2, "reference": 2, "train": 4, "held_out": 4, "sweep": 1,
    }  # fmt: skip
    (manifest,) = tmp_path.glob("sweep/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"] == {"points": 2, "trainings": 4, "failed": 0}
