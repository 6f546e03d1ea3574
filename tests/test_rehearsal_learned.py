"""The rehearsal fails, in a line with their names, for rows that are their start, another row, or another training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from focalpo.config.compose import compose, plain
from focalpo.config.schema import RowConfig, TableConfig, TableSettingConfig
from focalpo.reporting.table_run import TableRun
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.records import Completion, append_json, write_records
from rehearsal.learned import Learned, Training, changed, described_rows, faults, learned

ROWS = {"sft": RowConfig("SFT", 1, trained=False), "dpo": RowConfig("DPO", 1), "simpo": RowConfig("SimPO", 1)}
SETTINGS = {"base": TableSettingConfig("Base", [], "mistral_base")}
TABLE = TableConfig("paper", SETTINGS, ROWS, "dpo", False, None)
START = {"head": torch.zeros(4, 2), "norm": torch.ones(2)}


@pytest.fixture(scope="module")
def paper() -> dict:
    """The paper's rows: DPO at learning rate 5e-7, SimPO at 3e-7."""
    return {("base", row): compose([f"experiment=mistral_base/{row}"]) for row in ROWS}


@pytest.fixture
def rows(paper) -> dict[str, Learned]:
    """Three models as they should be: each weight and answer is its own."""
    return {row: model(paper, row, step) for row, step in (("sft", 0.0), ("dpo", 0.1), ("simpo", 0.2))}


def model(paper, row: str, step: float) -> Learned:
    config = paper["base", row]
    rate = config.train.learning_rate
    training = Training(START, plain(config.objective), rate, rate, 1.5) if ROWS[row].trained else None
    return Learned(
        ("base", row, "42"), moved(step), {("arena_hard", "q1"): row, ("arena_hard", "q2"): "same"}, training
    )


def moved(step: float) -> dict[str, torch.Tensor]:
    return START | {"head": START["head"] + step}


def trained_as(row: Learned, **values: object) -> Learned:
    assert row.training is not None
    return replace(row, training=replace(row.training, **values))


def found(rows: dict[str, Learned], paper) -> list[str]:
    return faults(list(rows.values()), TABLE, paper)


def test_rows_that_learned_each_its_own_have_no_fault(rows, paper) -> None:
    assert found(rows, paper) == []


def test_a_row_that_equals_its_start_is_named_with_every_row_that_it_equals(rows, paper) -> None:
    rows["dpo"] = replace(rows["dpo"], weights=moved(0.0))
    assert found(rows, paper) == [
        "base/dpo/42 has the weights of its start: training had no effect",
        "base/sft/42 and base/dpo/42 have the same weights",
    ]


def test_a_row_that_equals_its_start_is_named_where_the_start_is_no_row(rows, paper) -> None:
    del rows["sft"]
    rows["simpo"] = replace(rows["simpo"], weights=moved(0.0))
    assert found(rows, paper) == ["base/simpo/42 has the weights of its start: training had no effect"]


def test_two_rows_with_equal_weights_are_named(rows, paper) -> None:
    rows["simpo"] = replace(rows["simpo"], weights=rows["dpo"].weights)
    assert found(rows, paper) == ["base/dpo/42 and base/simpo/42 have the same weights"]


@pytest.mark.parametrize("place", [("instruct", "simpo", "42"), ("base", "simpo", "43")])
def test_rows_of_another_setting_or_seed_may_be_equal(place, rows, paper) -> None:
    paper = paper | {("instruct", "simpo"): paper["base", "simpo"]}
    rows["simpo"] = replace(rows["simpo"], place=place, weights=rows["dpo"].weights, answers=rows["dpo"].answers)
    assert found(rows, paper) == []


def test_two_rows_that_answer_alike_are_named_although_their_weights_differ(rows, paper) -> None:
    rows["simpo"] = replace(rows["simpo"], answers=rows["dpo"].answers)
    assert found(rows, paper) == ["base/dpo/42 and base/simpo/42 give the same 2 answers"]


def test_swapped_rows_are_both_named(rows, paper) -> None:
    dpo, simpo = rows["dpo"], rows["simpo"]
    rows["dpo"], rows["simpo"] = replace(dpo, training=simpo.training), replace(simpo, training=dpo.training)
    assert found(rows, paper) == [
        "base/dpo/42 was trained with the objective simpo",
        "base/dpo/42 was configured with the learning rate 3e-07, its row has 5e-07",
        "base/dpo/42 reached the learning rate 3e-07, its row has 5e-07",
        "base/simpo/42 was trained with the objective dpo",
        "base/simpo/42 was configured with the learning rate 5e-07, its row has 3e-07",
        "base/simpo/42 reached the learning rate 5e-07, its row has 3e-07",
    ]


def test_an_experiment_file_that_selects_another_objective_is_named(rows, paper) -> None:
    """Stage and configuration agree with each other, and not with the row's name."""
    swapped = paper | {("base", "dpo"): replace(paper["base", "dpo"], objective=paper["base", "simpo"].objective)}
    rows["dpo"] = trained_as(rows["dpo"], objective=plain(paper["base", "simpo"].objective))
    assert found(rows, swapped) == ["base/dpo/42 was trained with the objective simpo"]


def test_a_lost_option_and_a_lost_learning_rate_are_named(rows, paper) -> None:
    rows["dpo"] = trained_as(rows["dpo"], objective={"name": "dpo", "beta": 0.1})
    rows["simpo"] = trained_as(rows["simpo"], highest_rate=5e-7)
    assert found(rows, paper) == [
        "base/dpo/42 was trained with {'name': 'dpo', 'beta': 0.1}, its row has {'name': 'dpo', 'beta': 0.01}",
        "base/simpo/42 reached the learning rate 5e-07, its row has 3e-07",
    ]


def test_a_row_that_was_not_trained_is_named(rows, paper) -> None:
    rows["dpo"] = replace(rows["dpo"], training=None)
    assert found(rows, paper) == ["base/dpo/42 was not trained"]


def test_the_share_of_changed_weights_by_hand() -> None:
    """Eight numbers of the head moved, two of the norm did not; a tensor of another name or shape is changed."""
    assert changed(moved(0.0), START) == 0.0
    assert changed(moved(0.5), START) == pytest.approx(0.8)
    assert changed({"head": START["head"]}, START) == pytest.approx(0.2)
    assert changed(START | {"head": torch.zeros(8)}, START) == pytest.approx(0.8)


def test_what_a_row_learned_is_told_in_one_line_beside_its_nearest_row(rows) -> None:
    (dpo, simpo) = described_rows(list(rows.values())).splitlines()
    assert (
        dpo.split()
        == (
            "learned base/dpo/42 80.0% of the weights changed, margin +1.5 nats, "
            "1 of 2 answers differ from those of sft, the nearest row"
        ).split()
    )
    assert simpo.split()[1] == "base/simpo/42"


def sealed(runs: Path, stage: Stage, fill, facts: dict | None = None) -> Stage:
    folder = Folder(runs, stage)
    with folder.being_made() as job:
        fill(job.path)
    folder.seal(1.0, facts)
    return stage


def test_models_and_starts_are_read_from_the_sealed_stages(tmp_path: Path, paper) -> None:
    """The start is the stand-in under its hub id; the untrained row is the start itself."""
    runs, hub = tmp_path / "runs", tmp_path / "hub"
    source = {"path": "owner/start", "revision": None}
    (hub / "models" / "owner" / "start").mkdir(parents=True)
    save_file(START, hub / "models" / "owner" / "start" / "model.safetensors")

    def fill_training(path: Path) -> None:
        (path / "model").mkdir()
        save_file(moved(0.5), path / "model" / "model.safetensors")
        for rate in (0.0, 5e-7, 2e-7):
            append_json(path / "metrics.jsonl", {"learning_rate": rate})

    def answers(text: str):
        return lambda path: write_records(
            path / "arena_hard.parquet", [Completion("q1", [{"role": "user", "content": "?"}], text, 1, True)]
        )

    options = {"objective": {"name": "dpo", "beta": 0.01}, "train": {"learning_rate": 5e-7}}
    train = sealed(runs, Stage("train", "dpo", {"model": source} | options), fill_training, {"train": {"margin": 2.5}})
    inputs = {"base/dpo/42/train": train}
    for row, needed in (("sft", {}), ("dpo", {"model": train})):
        stage = Stage("generate", row, {"model": source, "sets": {"arena_hard": {}}}, needed)
        inputs[f"base/{row}/42/generate"] = sealed(runs, stage, answers(row))
    table = {"settings": {"base": {}}, "rows": {"sft": {}, "dpo": {}}}
    table = {name: {key: {"label": key} for key in keys} for name, keys in table.items()}
    report = sealed(runs, Stage("report", "paper", {"table": table}, inputs), lambda path: None)

    sft, dpo = learned(TableRun.read(Folder(runs, report).path), hub)
    assert sft.training is None and changed(sft.weights, START) == 0
    assert dpo.training is not None and changed(dpo.training.start, START) == 0
    assert changed(dpo.weights, START) == pytest.approx(0.8)
    assert (dpo.training.learning_rate, dpo.training.highest_rate, dpo.training.margin) == (5e-7, 5e-7, 2.5)
    assert dpo.answers == {("arena_hard", "q1"): "dpo"} and dpo.differing(sft) == 1
    small = replace(TABLE, rows={name: ROWS[name] for name in ("sft", "dpo")})
    assert faults([sft, dpo], small, paper) == []
