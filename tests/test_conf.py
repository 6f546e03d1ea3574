"""conf/ and its composition: every file composes and validates, and every mistake is rejected with its key."""

import re
import shutil
from functools import cache

import pytest

from focalpo.config import compose as compose_module
from focalpo.config.compose import CONF, compose, compose_bench, compose_table
from focalpo.config.schema import Config
from focalpo.judging.protocol import EVAL, load_protocol
from focalpo.judging.sentinel import read_sentinel
from focalpo.training.objective import OBJECTIVES

TABLES = sorted(path.stem for path in (CONF / "table").glob("*.yaml"))
GROUP_FILES = sorted(
    path.relative_to(CONF)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.parent.name not in ("table", "bench") and "experiment" not in path.parts
)
# Values that the user must set, by file: no other value may be missing.
REQUIRED = {
    "data/file.yaml": ["data.path=pairs.jsonl", "model=from_scratch"],
    "data/unpaired.yaml": ["data.path=answers.jsonl", "model=from_scratch", "objective=kto"],
    "setting/files.yaml": ["data.path=pairs.jsonl"],
    "setting/laptop_files.yaml": ["data.path=pairs.jsonl"],
}
# Pairs of the hub are too long for the pocket model's 128 positions.
LONG = ("ultrafeedback_binarized", "h4_ultrafeedback_binarized", "llama3_ultrafeedback_armorm", "on_policy")
REQUIRED |= {f"data/{name}.yaml": ["model=llama3_8b_instruct"] for name in LONG}
REQUIRED["data/llama3_ultrafeedback.yaml"] = ["model=llama3_8b_instruct", f"data.revision={40 * '0'}"]
REQUIRED["data/laptop.yaml"] = ["model=smollm2_135m_instruct"]
# What is judged or checked, and the sets of answers to it, are chosen together.
REQUIRED |= {f"{name}.yaml": ["setting=laptop"] for name in ("check/laptop", "generate/laptop", "judge/none")}
REQUIRED |= {f"generate/{name}.yaml": [f"setting={name}"] for name in ("one_gpu", "mistral_base", "llama3_instruct")}
REQUIRED["check/ifeval.yaml"] = ["setting=one_gpu"]


@cache
def composed(*overrides: str) -> Config:
    return compose(overrides)


@cache
def experiments_in_their_settings() -> list[tuple[str, ...]]:
    """Overrides for the experiment file of every row of a table in every one of its settings."""
    cases: dict[tuple[str, ...], None] = {}
    for table in map(compose_table, TABLES):
        for column in table.settings.values():
            required = REQUIRED.get(f"setting/{column.overrides[0].removeprefix('setting=')}.yaml", [])
            for name in sorted({values.experiment or row for row, values in table.rows.items()}):
                if (CONF / "experiment" / column.experiments / f"{name}.yaml").is_file():
                    cases[f"experiment={column.experiments}/{name}", *column.overrides, *required] = None
    return list(cases)


@pytest.mark.parametrize("path", GROUP_FILES, ids=str)
def test_every_file_of_every_group_composes_and_validates(path):
    composed(f"{path.parent}={path.stem}", *REQUIRED.get(str(path), []))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "bench").glob("*.yaml")))
def test_every_benchmark_composes_and_trl_micro_batches_divide_the_global_batch(name):
    config = compose_bench(name, [])
    assert not config.train.problems()
    assert all(config.train.global_batch % peer.micro_batch == 0 for peer in config.peers.values())


@pytest.mark.parametrize("overrides", experiments_in_their_settings(), ids=" ".join)
def test_every_experiment_validates_in_every_setting_of_its_table(overrides):
    composed(*overrides)


def test_every_experiment_file_belongs_to_a_table():
    files = {path.relative_to(CONF / "experiment") for path in (CONF / "experiment").rglob("*.yaml")}
    reached = {overrides[0] for overrides in experiments_in_their_settings()}
    assert {f"experiment={path.with_suffix('')}" for path in files} == reached


@pytest.mark.parametrize("name", TABLES)
def test_every_trained_row_of_a_table_has_a_file_or_is_an_objective(name):
    table = compose_table(name)
    assert table.compare_with in table.rows
    for column in table.settings.values():
        for row, values in table.rows.items():
            name = values.experiment or row
            file = CONF / "experiment" / column.experiments / f"{name}.yaml"
            assert file.is_file() or not values.trained or name in OBJECTIVES, row


JUDGES = [path for path in sorted((CONF / "judge").glob("*.yaml")) if path.stem != "none"]


@pytest.mark.parametrize("path", JUDGES, ids=lambda path: path.stem)
def test_every_judge_names_protocols_and_a_sentinel_that_exist(path):
    judge = compose([f"judge={path.stem}"]).judge
    for protocol in judge.benchmarks.values():
        load_protocol(EVAL / f"{protocol}.yaml")
    assert read_sentinel(EVAL / f"{judge.sentinel}.yaml").questions


def error_of(overrides: list[str]) -> str:
    with pytest.raises(ValueError) as caught:
        compose(overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("objective.gama=1", "gama"),
        ("++objective.gama=1", "gama"),
        ("objective.beta=abc", "objective.beta"),
        ("objective.beta=-1", "objective.beta"),
        ("train.lrr=1e-6", "lrr"),
        ("++train.lrr=1e-6", "lrr"),
        ("train.learning_rate=fast", "train.learning_rate"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("launch.ranks=3", "launch.ranks"),
        ("data.revision=null", "data.revision"),
        ("objective=dppo", "dppo"),
        ("experiment=mistral_base/dppo", "mistral_base/dppo"),
    ],
)
def test_a_mistake_on_the_command_line_is_rejected_with_its_key(override, key):
    setting = [] if override.startswith("experiment") else ["setting=mistral_base"]
    assert key in error_of([*setting, override])


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("objective:\n  gama: 1", "gama"),
        ("objective:\n  beta: abc", "beta"),
        ("objective:\n  beta: -1", "objective.beta=-1"),
        ("train:\n  lrr: 1.0e-6", "lrr"),
        ("train:\n  learning_rate: fast", "learning_rate"),
        ("sed: 42", "sed"),
        ("defaults:\n  - override /objective: dppo", "dppo"),
    ],
)
def test_a_mistake_in_an_experiment_file_is_rejected_with_its_key(line, key, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (conf / "experiment" / "mistaken.yaml").write_text(f"# @package _global_\n{line}\n")
    monkeypatch.setattr(compose_module, "CONF", conf)
    assert re.search(rf"\b{re.escape(key)}", error_of(["experiment=mistaken"]))


def test_all_mistakes_on_the_command_line_are_reported_at_once_one_per_line():
    keys = error_of(["objective.gama=1", "train.lrr=1", "train.learning_rate=fast", "objective.beta=0.1"]).splitlines()
    assert [key.split("=")[0] for key in keys] == ["objective.gama", "train.lrr", "train.learning_rate"]


def test_all_values_out_of_range_are_reported_at_once_one_per_line():
    text = error_of(["objective.beta=-1", "objective.gamma=-1", "train.epochs=0", "data.prompts=9", "launch.ranks=0"])
    keys = ("objective.beta", "objective.gamma", "train.epochs", "launch.ranks")
    assert [text.count(key) for key in keys] == [1, 1, 1, 1]
    assert "data.prompts" not in text and len(text.splitlines()) == 3  # an objective reports all its own in one line


@pytest.mark.parametrize(
    ("setting", "override"),
    [
        ("mistral_base", "data.label_noise=0.4"),
        ("mistral_base", "data.seed=7"),
        ("llama3_instruct", "data.prompts=100"),
        ("files", "data.label_noise=0.4"),
        ("files", "data.train_split=test"),
        ("pocket_base", "data.samples=3"),
        ("pocket_base", "data.limit=1"),
        ("pocket_instruct", "data.path=pairs.jsonl"),
    ],
)
def test_a_key_of_another_source_of_pairs_does_not_exist(setting, override):
    required = REQUIRED.get(f"setting/{setting}.yaml", [])
    text = error_of([f"setting={setting}", *required, override])
    assert text.startswith(f"{override}: there is no such key; choose from on_bad_rows, ")


def test_a_data_file_that_names_no_source_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("name: mine\npath: x.jsonl\n")
    text = error_of([f"hydra.searchpath=[{tmp_path}]", "data=mine"])
    assert "the file of data= names no source" in text and "/source/file" in text


def test_a_valid_override_is_not_listed_among_the_mistakes():
    lines = error_of(["objective=simpo", "objective.gamma_beta_ratio=0.5", "train.lrr=1"]).splitlines()
    assert [line.split("=")[0] for line in lines] == ["train.lrr"]
