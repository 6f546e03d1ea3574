"""Overrides that Hydra reads as something else than their text, and messages that name the key to change."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from focalpo.config import compose as compose_module
from focalpo.config.compose import compose, compose_bench, compose_table
from focalpo.config.overrides import advice, expand, meant, spelled
from focalpo.planning.table import compose_rows, with_rows

FILES = ["setting=files", "data.path=pairs.jsonl"]
PATHS = [
    "/a/b=c.jsonl", "/tmp/my, pairs.jsonl", "/tmp/it's.jsonl", "/tmp/a(1).jsonl", "/tmp/{a}/b.jsonl",
    "/tmp/two  and.jsonl", "1e3", "/tmp/$HOME,`x`",
]  # fmt: skip
TEXTS = [
    *PATHS, "/tmp/a [1].jsonl", "/tmp/a#b;c&d!e.jsonl", "/tmp/\u00e4.jsonl", '/tmp/a"b.jsonl', "/tmp/a,\\", "/tmp/~a",
    "[a,b]", "{a:b}", "glob(a)", "range(3)", "00123", "true", "null", " /tmp/a ", "a\\'b", "\\", "",
]  # fmt: skip


def error_of(*overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        compose(overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is_or_the_line_shows_a_command_that_gives_it(path: str) -> None:
    """What is shown goes through a shell's splitting and Hydra's grammar, and comes out as the path that was typed."""
    try:
        config = compose([f"runs={path}"])
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        (shown,) = shlex.split(str(error).rpartition(" for the shell: ")[2])
        config = compose([shown])
    assert config.runs == path


@pytest.mark.parametrize("text", TEXTS)
def test_a_spelled_value_is_read_as_its_text(text: str) -> None:
    (shown,) = shlex.split(advice(f"data.path={text}").rpartition(" for the shell: ")[2])
    assert OverridesParser.create().parse_override(shown).value() == text


def test_an_interpolation_in_a_spelled_value_is_text() -> None:
    assert compose([spelled("runs", "${seed}")]).runs == "${seed}"


def test_the_users_own_quotes_and_home_folder_are_not_part_of_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert meant("data.path='/tmp/it's.jsonl'") == ("data.path", "/tmp/it's.jsonl")
    assert error_of(*FILES, "data.path=~/a.jsonl").endswith(shlex.quote('data.path="/home/me/a.jsonl"'))


def test_digits_of_a_commit_are_not_read_as_a_number() -> None:
    """73e0451 is a short commit, and to Hydra the number 73 * 10^451, which is infinite."""
    for revision in ("73e0451", "1_000"):
        assert error_of(f"model.revision={revision}").endswith(f"'model.revision=\"{revision}\"'")


def test_several_quoting_mistakes_and_others_are_reported_at_once() -> None:
    lines = error_of(*FILES, "data.path=a=b", "runs=a(b", "train.lrr=1", "seed=x").splitlines()
    assert [line.split("=")[0] for line in lines] == ["data.path", "runs", "train.lrr", "seed"]
    assert ["quote it" in line for line in lines] == [True, True, False, False]


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("seed=1,2", "recipes.sweep"),
        ("seed=range(1,3)", "recipes.sweep"),
        ("judge.benchmarks.mine=alpaca_eval_2", "by a + before the key"),
        ("train.lrr=1", "there is no such key; choose from"),
        ("++train.lrr=1", "there is no such key; choose from"),
        ("+experiment=pocket/dpo", "without the +"),
        ("lora.rank=3", "lora=rank16"),
        ("data.sampling.seeds=[1]", "choose from"),
        ("lora=null", "leave it out"),
        ("lora=rank16 lora.targets=q_proj", "KEY=[a,b]"),
        ("runs=${nothing}", "in double quotes only"),
        ("model.phases={}", "~model.phases.NAME"),
        ("objective.name=dpo", "write objective=NAME"),
        ("objective.name=nothing", "write objective=NAME"),
        ("seed=-1", "in [0, 2^32)"),
        ("seed=abc", "seed=abc: a whole number is needed at seed"),
        ("train.learning_rate=fast", "train.learning_rate=fast: a number is needed at train.learning_rate"),
        ("train.activation_checkpointing=maybe", "true or false is needed"),
        ("model.seed=4294967296", "in [0, 2^32)"),
        ("--hlep", "did you mean --help?"),
        ("hydra.run.dir=x", "is not read"),
        ("data.path", "KEY=VALUE"),
        ("=x", "is not read"),
        ("", "KEY=VALUE"),
    ],
)
def test_every_message_is_one_line_with_one_remedy_of_ours(override: str, remedy: str) -> None:
    text = error_of(*FILES, *(override.split(" ") if override else [""]))
    assert remedy in text and len(text.splitlines()) == 1
    assert not re.search("multirun|append to|hydra.cc|object_type|Exception", text)


def test_a_search_that_cannot_be_read_is_shown_as_one_quoted_value() -> None:
    with pytest.raises(ValueError) as caught:
        expand([], ["data.path=/tmp/a(1).jsonl"])
    (shown,) = shlex.split(str(caught.value).rpartition(" for the shell: ")[2])
    assert expand([], [shown]) == [[shown]]


def test_a_benchmarks_keys_are_named_as_they_are_typed() -> None:
    with pytest.raises(ValueError, match=r"^train\.lrr=1: there is no such key"):
        compose_bench("tiny", ["train.lrr=1"])


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            ["model.architecture=null"],
            [
                "there is no model to start from; set one of model.path",
                "model.phases (sft) train model.architecture, which is null; remove them by '~model.phases.sft'",
            ],
        ),
        (["model.architecture=null", "model.path=x"], ["model.phases (sft) train model.architecture, which is null"]),
        (["model.path=x"], ["model.path and model.architecture are set"]),
        (["~model.phases.sft"], ["model.architecture is trained by model.phases, of which there are none"]),
        (["model.tokenizer=null"], ["model.tokenizer=None is not one of pocket, bpe"]),
        (["model.phases.sft.train.global_batch=0"], ["model.phases.sft.train.global_batch=0 must be >= 1"]),
        (["model.phases.sft.train.epochs=0", "train.epochs=0"], ["model.phases.sft.train.epochs=0", "train.epochs=0"]),
        (["model.phases.sft.demonstrations=x"], ["model.phases.sft.demonstrations='x' is not one of chosen"]),
        (["model.phases.sft.count=0"], ["model.phases.sft.count=0 must be >= 1"]),
        (
            ["launch.ranks=2", "model.phases.sft.train.global_batch=3"],
            ["model.phases.sft.train.global_batch=3 is not divisible by launch.ranks=2"],
        ),
    ],
)
def test_what_is_wrong_with_the_model_names_its_own_key(overrides: list[str], lines: list[str]) -> None:
    found = error_of(*FILES, *overrides).splitlines()
    assert len(found) == len(lines) and all(f.startswith(line) for f, line in zip(found, lines, strict=True)), found


def test_a_tables_mistake_names_its_rows_unless_all_have_it() -> None:
    """objective.gamma is an option of FocalPO and not of DPO; a typing mistake is in both."""
    table = with_rows(compose_table("files"), {})
    with pytest.raises(ValueError) as caught:
        compose_rows(table, ["data.path=x", "objective.gamma=0.1", "train.lrr=1"])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("files/dpo: objective.gamma=0.1: ") and lines[1].startswith("train.lrr=1: ")


def test_what_the_line_says_about_left_over_phases_works() -> None:
    shown = error_of(*FILES, "model.architecture=null", "model.path=x").rpartition(" by ")[2]
    assert not compose([*FILES, "model.architecture=null", "model.path=x", *shlex.split(shown)]).model.phases


@pytest.mark.parametrize("content", [b"a: [1", b"a: \xff", b"- a\nb: c", b"\ta: 1"])
def test_a_broken_file_of_conf_is_one_line(content: bytes, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    for path in compose_module.CONF.iterdir():
        if path.name != "experiment":
            (conf / path.name).symlink_to(path)
    (conf / "experiment" / "mine.yaml").write_bytes(content)
    monkeypatch.setattr(compose_module, "CONF", conf)
    text = error_of("experiment=mine")
    assert len(text.splitlines()) == 1 and str(conf) in text
