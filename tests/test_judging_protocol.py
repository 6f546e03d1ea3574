"""The protocols of eval/ as data: what a hash must notice, what it must not, and mistakes said before any call."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.protocol import AlpacaProtocol, annotator_config, load_protocol, protocol_hash

EVAL = Path(__file__).parent.parent / "eval"
BENCHMARKS = sorted(path.stem for path in EVAL.glob("*.yaml") if "\nbenchmark: " in path.read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EVAL, tmp_path / "eval"))


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_benchmark_of_eval_loads_and_has_a_hash_of_its_own() -> None:
    assert {"alpaca_eval_2", "arena_hard_v0_1", "pocket_alpaca_eval", "pocket_arena_hard"} <= set(BENCHMARKS)
    hashes = {protocol_hash(load_protocol(EVAL / f"{name}.yaml")) for name in BENCHMARKS}
    assert len(hashes) == len(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_hash_does_not_depend_on_the_place_or_on_comments(folder: Path, name: str) -> None:
    expected = protocol_hash(load_protocol(EVAL / f"{name}.yaml"))
    for path in folder.glob("*.yaml"):
        path.write_text(f"# a remark\n{path.read_text()}")
    assert protocol_hash(load_protocol(folder / f"{name}.yaml")) == expected


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("pocket_alpaca_eval", "pocket_alpaca_eval.txt", "{instruction}", "{instruction} "),
        ("pocket_alpaca_eval", "weighted_alpaca_eval_pocket.yaml", "top_logprobs: 5", "top_logprobs: 20"),
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "library: 0.6.6", "library: 0.6.2"),
        ("alpaca_eval_2", "weighted_alpaca_eval_gpt4_turbo.yaml", "gpt-4-1106-preview", "gpt-4-turbo"),
        ("arena_hard_v0_1", "arena_hard_prompt.txt", "impartial", "partial"),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "A>>B: [1, 3]", "A>>B: [1, 2]"),
    ],
)
def test_a_hash_notices_every_change_of_what_is_measured(
    folder: Path, name: str, file: str, old: str, new: str
) -> None:
    before = protocol_hash(load_protocol(folder / f"{name}.yaml"))
    changed(folder / file, old, new)
    assert protocol_hash(load_protocol(folder / f"{name}.yaml")) != before


def test_another_judge_is_another_protocol() -> None:
    arena = load_protocol(EVAL / "arena_hard_v0_1.yaml")
    assert protocol_hash(replace(arena, judge="local-judge")) != protocol_hash(arena)
    alpaca = load_protocol(EVAL / "alpaca_eval_2.yaml")
    assert isinstance(alpaca, AlpacaProtocol)
    local = replace(alpaca, annotator=EVAL / "weighted_alpaca_eval_local.yaml")
    assert protocol_hash(local) != protocol_hash(alpaca)


def test_the_official_prompt_is_the_librarys_file_and_ours_lies_beside_the_config() -> None:
    ((_, official),) = annotator_config(EVAL / "weighted_alpaca_eval_gpt4_turbo.yaml").items()
    assert official["prompt_template"].endswith("evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt")
    ((_, pocket),) = annotator_config(EVAL / "weighted_alpaca_eval_pocket.yaml").items()
    assert pocket["prompt_template"] == str((EVAL / "pocket_alpaca_eval.txt").resolve())


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "prompts: 805", "promts: 805", r"missing keys \['prompts'\], unknown"),
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "benchmark: alpaca_eval", "benchmark: mt_bench", "must be one of"),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "arena_hard_prompt.txt", "official.txt", "not beside it"),
    ],
)
def test_a_mistake_in_a_benchmark_is_named(
    folder: Path, name: str, file: str, old: str, new: str, message: str
) -> None:
    changed(folder / file, old, new)
    with pytest.raises(ValueError, match=message):
        load_protocol(folder / f"{name}.yaml")


def test_a_prompt_that_is_nowhere_is_not_judged_with_its_file_name(folder: Path) -> None:
    changed(folder / "weighted_alpaca_eval_pocket.yaml", "pocket_alpaca_eval.txt", "poket_alpaca_eval.txt")
    with pytest.raises(ValueError, match="neither beside it nor in alpaca_eval"):
        annotator_config(folder / "weighted_alpaca_eval_pocket.yaml")
