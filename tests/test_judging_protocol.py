"""The protocols of eval/ as data: what changes a hash, what does not, and mistakes reported before any call."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.protocol import AlpacaProtocol, annotator_config, fill_template, load_protocol, protocol_hash

EVAL = Path(__file__).parent.parent / "eval"
BENCHMARKS = sorted(path.stem for path in EVAL.glob("*.yaml") if "\nbenchmark: " in path.read_text())
SENTINELS = ["sentinel", "sentinel_pocket"]
ANNOTATORS = [*sorted(path.stem for path in EVAL.glob("weighted_*.yaml")), "alpaca_eval_reasoning"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EVAL, tmp_path / "eval"))


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_benchmark_of_eval_loads_and_has_a_unique_hash() -> None:
    assert {"alpaca_eval_2", "arena_hard_v0_1", "pocket_alpaca_eval", "pocket_arena_hard"} <= set(BENCHMARKS)
    hashes = {protocol_hash(load_protocol(EVAL / f"{name}.yaml")) for name in BENCHMARKS}
    assert len(hashes) == len(BENCHMARKS)


def test_every_yaml_of_eval_is_a_benchmark_an_annotator_a_sentinel_or_about_the_papers_table() -> None:
    others = {"paper_table1", "verdicts", "laptop_instructions", "capability", "author_runs", "claims"}
    assert {path.stem for path in EVAL.glob("*.yaml")} == {*BENCHMARKS, *ANNOTATORS, *SENTINELS, *others}


@pytest.mark.parametrize("name", ANNOTATORS)
def test_every_annotator_of_eval_loads_under_its_own_name(name: str) -> None:
    ((found, annotator),) = annotator_config(EVAL / f"{name}.yaml").items()
    assert found == name and Path(annotator["prompt_template"]).is_file()


def test_only_the_pocket_worlds_files_have_no_sha256() -> None:
    for name in BENCHMARKS:
        protocol = load_protocol(EVAL / f"{name}.yaml")
        hashes = [file.sha256 for file in protocol.files.values()]
        if protocol.source == "pocket":
            assert hashes == [None] * len(hashes)
        else:
            unseen = ["creative_answers"] if name.startswith("arena_hard_v2_0") else []  # as the file itself explains
            assert [role for role, file in protocol.files.items() if file.sha256 is None] == unseen
            assert all(re.fullmatch("[0-9a-f]{64}", found) for found in hashes if found is not None)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_hash_does_not_depend_on_the_location_or_on_comments(folder: Path, name: str) -> None:
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
def test_a_hash_changes_with_everything_that_is_measured(
    folder: Path, name: str, file: str, old: str, new: str
) -> None:
    before = protocol_hash(load_protocol(folder / f"{name}.yaml"))
    changed(folder / file, old, new)
    assert protocol_hash(load_protocol(folder / f"{name}.yaml")) != before


def test_another_judge_changes_the_hash() -> None:
    arena = load_protocol(EVAL / "arena_hard_v0_1.yaml")
    assert protocol_hash(replace(arena, judge="local-judge")) != protocol_hash(arena)
    alpaca = load_protocol(EVAL / "alpaca_eval_2.yaml")
    assert isinstance(alpaca, AlpacaProtocol)
    local = replace(alpaca, annotator=EVAL / "weighted_alpaca_eval_local.yaml")
    assert protocol_hash(local) != protocol_hash(alpaca)


def test_the_official_prompt_is_the_librarys_file_and_ours_is_beside_the_config() -> None:
    ((_, official),) = annotator_config(EVAL / "weighted_alpaca_eval_gpt4_turbo.yaml").items()
    assert official["prompt_template"].endswith("evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt")
    ((_, pocket),) = annotator_config(EVAL / "weighted_alpaca_eval_pocket.yaml").items()
    assert pocket["prompt_template"] == str((EVAL / "pocket_alpaca_eval.txt").resolve())


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "prompts: 805", "promts: 805", r"missing keys \['prompts'\], unknown"),
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "benchmark: alpaca_eval", "benchmark: mt_bench", "must be one of"),
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "prompts: 805", "prompts: 805\nseed: 1", r"unknown keys \['seed'\]"),
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "    sha256", "    sha265", "exactly the keys path and sha256.*sha265"),
        (
            "alpaca_eval_2",
            "alpaca_eval_2.yaml",
            "    path: df_gamed.csv\n",
            "",
            "exactly the keys path and sha256.*path",
        ),
        ("alpaca_eval_2", "alpaca_eval_2.yaml", "files:", "files: [", r"eval_2.yaml is not valid YAML: .* line \d+"),
        (
            "alpaca_eval_2",
            "alpaca_eval_2.yaml",
            "annotator: weighted_alpaca_eval_gpt4_turbo.yaml",
            "annotator:",
            "None",
        ),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "arena_hard_prompt.txt", "official.txt", "not beside it"),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "A>B: [1, 1]", "A>B: 1", r"as in A>>B: \[1, 3\]"),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "A=B: [0.5, 1]", "A=B: [tie, 1]", r"as in A>>B: \[1, 3\]"),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "{answer_2}", "{answer_1}", "but must show .*'answer_2'"),
        ("arena_hard_v0_1", "arena_hard_v0_1.yaml", "{question}", "{question}}", "unmatched brace"),
    ],
)
def test_a_mistake_in_a_benchmark_is_named(
    folder: Path, name: str, file: str, old: str, new: str, message: str
) -> None:
    changed(folder / file, old, new)
    with pytest.raises(ValueError, match=message) as error:
        load_protocol(folder / f"{name}.yaml")
    assert "\n" not in str(error.value)


def test_a_missing_prompt_template_is_rejected(folder: Path) -> None:
    changed(folder / "weighted_alpaca_eval_pocket.yaml", "pocket_alpaca_eval.txt", "poket_alpaca_eval.txt")
    with pytest.raises(ValueError, match="neither beside it nor in alpaca_eval"):
        annotator_config(folder / "weighted_alpaca_eval_pocket.yaml")


def test_an_annotator_without_a_prompt_and_two_in_one_file_are_rejected(folder: Path) -> None:
    path = folder / "weighted_alpaca_eval_pocket.yaml"
    text = path.read_text()
    path.write_text(f"{text}another: {{}}\n")
    with pytest.raises(ValueError, match="must hold one annotator, but holds .*another"):
        annotator_config(path)
    path.write_text(text.replace("prompt_template:", "prompt_templat:"))
    with pytest.raises(ValueError, match="weighted_alpaca_eval_pocket has no prompt_template"):
        annotator_config(path)
    with pytest.raises(ValueError, match="nowhere.yaml does not exist; the benchmarks and annotators are in eval/"):
        load_protocol(folder / "nowhere.yaml")


def test_a_template_is_filled_in_one_pass() -> None:
    """Filled one name after the other, {b} of the first text would become the second text."""
    assert fill_template("<{a}|{b}>", {"a": "{b}", "b": "{a} {c} \\1 {{a}}"}) == r"<{b}|{a} {c} \1 {{a}}>"
    assert fill_template('{\n  "x": {a} {other}}', {"a": ""}) == '{\n  "x":  {other}}'
