"""Files of single answers with labels: rows become answers with one side, and a bad row or column is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.data.schemas import convert
from focalpo.data.sources import FileSource, load
from focalpo.data.unpaired import convert_unpaired
from focalpo.planning.stages import in_order, train_stage
from focalpo.running.schedule import run_stages
from focalpo.stages.folder import Folder, Job, read_manifest
from focalpo.stages.records import Pair, read_json_lines, read_records
from recipes import pairs as recipe
from tests.tiny import chatml_tokenizer, tiny_model


def rows_of(pairs: list[Pair]) -> list[dict]:
    """Each pair as two rows of TRL's unpaired format."""
    return [
        {"prompt": pair.prompt[0]["content"], "completion": text, "label": label}
        for pair in pairs
        for text, label in ((pair.chosen, True), (pair.rejected, False))
    ]


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_becomes_an_answer_with_one_side(tmp_path: Path) -> None:
    """As texts, as messages, as JSON text of messages, and as a whole dialogue with its answer."""
    said = [{"role": "assistant", "content": "a fish"}]
    rows = [
        {"prompt": "Name one.", "completion": "a fish", "label": True},
        {"prompt": ask("Name two."), "completion": said, "label": False},
        {
            "prompt": json.dumps(ask("Name three.")),
            "completion": json.dumps(said),
            "label": True,
            "system": "Be brief.",
        },
    ]
    found = convert_unpaired(rows, "own.jsonl", "row")
    assert found.unpaired and not found.bad and list(found.pairs) == [1, 2, 3]
    assert found.pairs[1] == Pair("row-000001", ask("Name one."), "a fish", "")
    assert found.pairs[2] == Pair("row-000002", ask("Name two."), "", "a fish")
    assert found.pairs[3].prompt == [{"role": "system", "content": "Be brief."}, *ask("Name three.")]
    dialogue = [{"messages": [*ask("Name one."), *said], "label": False, "prompt_id": "x"}]
    assert convert_unpaired(dialogue, "own.jsonl", "row").pairs == {1: Pair("x", ask("Name one."), "", "a fish")}


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"prompt": "p", "completion": "c", "label": "true"}, "label that is neither true nor false: 1 in"),
        ({"prompt": "p", "completion": "c", "label": 1}, "label that is neither true nor false: 1 in"),
        ({"prompt": "p", "completion": "c", "label": None}, "label that is neither true nor false: 1 in"),
        ({"prompt": "p", "completion": " ", "label": True}, "empty response: 1 in"),
        ({"prompt": " ", "completion": "c", "label": True}, "empty turn in the prompt: 1 in"),
        ({"prompt": None, "completion": "c", "label": True}, "missing or ill-typed value: 1 in"),
        ({"prompt": "p", "completion": "a\0", "label": True}, "text that no encoder can read"),
        ({"prompt": "p0", "completion": "yes 0", "label": True}, "duplicate of an earlier pair: 1 in"),
        ({"prompt": "p0", "completion": "yes 0", "label": False}, "labelled the other way round: 2 in"),
        ({"prompt": [*ask("p"), *ask("q")], "completion": "c", "label": True}, "turns are not"),
    ],
)
def test_a_bad_row_is_named_in_one_line_or_dropped(tmp_path: Path, row: dict, problem: str) -> None:
    good = [r for n in range(40) for r in rows_of([Pair("", ask(f"p{n}"), f"yes {n}", f"no {n}")])]
    file = FileSource(written(tmp_path / "own.jsonl", [*good, row]), test_fraction=0.3)
    with pytest.raises(ValueError) as told:
        load(file, "error", converted=convert_unpaired)
    _, line = str(told.value).splitlines()
    assert problem in line and "row" in line
    kept = load(file, "drop", converted=convert_unpaired)
    lost = 2 if "other way" in problem else 1
    assert len(kept.train) + len(kept.test) == 81 - lost and sum(kept.dropped.values()) == lost


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "columns prompt, chosen, rejected are not those of single"),
        ([{"prompt": "p", "completion": "a"}], "prompt, completion, label or messages, label; rename them, or read"),
        ([{"prompt": "p", "completion": "a", "label": True, "weight": 2}], r"data.ignore_columns=\[weight\]"),
    ],
)
def test_other_columns_are_refused_in_one_line(rows: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        convert_unpaired(rows, "own.jsonl", "row")
    assert len(str(told.value).splitlines()) == 1


def test_the_reader_of_pairs_says_what_reads_single_answers() -> None:
    with pytest.raises(ValueError, match="own.jsonl: rows of one answer with a label are no pairs; .* data=unpaired"):
        convert([{"prompt": "p", "completion": "a", "label": True}], "own.jsonl", "row")


@pytest.mark.parametrize("limit", [None, 3])
def test_both_labels_are_needed_once_all_that_drops_answers_is_done(tmp_path: Path, limit: int | None) -> None:
    """Of all, and of the few that a limit leaves: of 40 answers one is not desirable."""
    rows = [{"prompt": f"p{n}", "completion": "c", "label": limit is None or n != 7} for n in range(40)]
    path = written(tmp_path / "own.jsonl", rows)
    named = {"path": None, "revision": None, "chat_template": None, "stop_tokens": []}
    data = {"source": "unpaired", "test_fraction": 0.3, "limit": limit, "ignore_columns": [], "on_bad_rows": "drop"}
    data |= {"max_prompt_length": 150, "max_length": 200, "truncation": "simpo"}
    (tmp_path / "model").mkdir()
    tiny_model(vocab_size=300, max_position_embeddings=256).save_pretrained(tmp_path / "model")
    chatml_tokenizer().save_pretrained(tmp_path / "model")
    job = Job("pairs", "file", "key", {"data": data, "model": named}, {}, tmp_path, {"model": tmp_path})
    with pytest.raises(ValueError, match=r"own.jsonl: the label of all \d+ train answers is true; add others"):
        recipe.make(replace(job, launch={"files": {"path": str(path), "test_path": None}}))


def test_only_kto_trains_on_single_answers() -> None:
    def told(*overrides: str) -> str:
        with pytest.raises(ValueError) as error:
            compose(["setting=files", "data=unpaired", "data.path=own.jsonl", *overrides])
        return str(error.value)

    assert compose(["setting=files", "data=unpaired", "data.path=own.jsonl", "objective=kto"]).objective.name == "kto"
    for name in ("focalpo", "apo_zero", "sft"):
        said = told(f"objective={name}")
        assert said == f"objective={name} needs pairs, and data=unpaired has single answers; choose objective=kto, or pairs by data=file"  # fmt: skip  # noqa: E501
    assert told("objective=kto", "rounds=2").startswith("rounds=2: the pairs of data=unpaired are not")
    assert "data.path is not set" in told("objective=kto", "data.path=null")


@pytest.mark.slow
def test_from_a_file_to_a_trained_model(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"say {n}", "completion": f"{n}, {'gladly' if label else 'no'}", "label": label}
        for n in range(120)
        for label in ([True, False] if n % 3 else [True])
    ]
    path = written(tmp_path / "answers.jsonl", rows)
    tiny = ["train.global_batch=16", "train.max_steps=3", "model.phases.sft.train.max_steps=5"]
    config = compose(
        ["setting=files", "data=unpaired", f"data.path={path}", "objective=kto", "objective.beta=0.5", *tiny]
    )
    stage = train_stage(config, "kto")
    run_stages(tmp_path / "runs", in_order([stage]), workers=1, silent=True)
    folder = Folder(tmp_path / "runs", stage).path
    facts = read_manifest(folder)["facts"]
    assert any("desirable" in line and "rejected_weight" in line for line in facts["warnings"])
    assert facts["test"]["pairs"] > 0 and 0 <= facts["test"]["reward_accuracy"] <= 1
    losses = [row["loss"] for row in read_json_lines(folder / "metrics.jsonl")]
    assert losses[0] == pytest.approx(0.5), "the policy is its reference: sigmoid(0) for every answer"
    kept = read_records(Folder(tmp_path / "runs", stage.inputs["pairs"]).path / "train.parquet", Pair)
    assert all(bool(pair.chosen) != bool(pair.rejected) for pair in kept)
