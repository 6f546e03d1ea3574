"""A model's answers from files: every layout gives the same answers, each question must be answered exactly once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from focalpo.config.compose import compose
from focalpo.judging.answer_files import Answers, alpaca_outputs, arena_answers, read_answers
from focalpo.judging.protocol import JudgedProtocol, load_protocol
from focalpo.planning.stages import in_order, row_stages
from focalpo.planning.table import planned
from focalpo.stages.folder import Stage
from focalpo.stages.records import Completion, Question

EVAL = Path(__file__).parent.parent / "eval"
TEXTS = ["one", "", "three\u2028lines"]
TOKENS = [5, 6, 7]
MODEL = "their/model"


def asked(category: str = "") -> list[Question]:
    prompts = [[{"role": "user", "content": f"do {n}"}] for n in range(3)]
    return [Question(f"{category}q{n}", prompt, f"reference {n}") for n, prompt in enumerate(prompts)]


def protocol(name: str) -> JudgedProtocol:
    return replace(load_protocol(EVAL / f"{name}.yaml"), prompts=3)


def alpaca_rows() -> list[dict]:
    return [{"instruction": f"do {n}", "output": TEXTS[n], "generator": MODEL, "dataset": "any"} for n in range(3)]


def of_2024() -> list[dict]:
    return [
        {
            "question_id": f"q{n}",
            "answer_id": "any",
            "model_id": MODEL,
            "choices": [{"index": 0, "turns": [{"content": TEXTS[n], "token_len": TOKENS[n]}]}],
            "tstamp": 1.0,
        }
        for n in range(3)
    ]


def of_2025() -> list[dict]:
    return [
        {
            "uid": f"q{n}",
            "ans_id": "any",
            "model": MODEL,
            "messages": [{"role": "user", "content": "any"}, {"role": "assistant", "content": {"answer": TEXTS[n]}}],
            "metadata": {"token_len": TOKENS[n], "bold_count": {"**": 0}},
        }
        for n in range(3)
    ]


def written(path: Path, rows: object) -> Path:
    lines = path.suffix == ".jsonl" and isinstance(rows, list)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
    return path


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(
    ("rows", "name", "file", "category", "counted"),
    [
        (alpaca_rows, "alpaca_eval_2", "model_outputs.json", "", False),
        (of_2024, "arena_hard_v0_1", "m.jsonl", "", True),
        (of_2025, "arena_hard_v0_1", "m.jsonl", "", True),
        (of_2025, "arena_hard_v2_0", "m.jsonl", "hard_prompt/", True),
    ],
)
def test_every_layout_gives_the_answers_in_the_order_of_the_questions(
    tmp_path: Path, rows: Callable, name: str, file: str, category: str, counted: bool, order: tuple[int, ...]
) -> None:
    path, questions = written(tmp_path / file, [rows()[n] for n in order]), asked(category)
    tokens = TOKENS if counted else [0, 0, 0]
    expected = [Completion(q.id, q.prompt, TEXTS[n], tokens[n], True) for n, q in enumerate(questions)]
    assert read_answers(path, protocol(name), questions) == Answers(MODEL, expected)


@pytest.mark.parametrize(
    ("name", "category"), [("alpaca_eval_2", ""), ("arena_hard_v0_1", ""), ("arena_hard_v2_0", "creative_writing/")]
)
def test_what_we_write_is_read_back(tmp_path: Path, name: str, category: str) -> None:
    questions = asked(category)
    answers = [Completion(q.id, q.prompt, TEXTS[n], 0, True) for n, q in enumerate(questions)]
    if name == "alpaca_eval_2":
        rows = alpaca_outputs([{"instruction": f"do {n}", "dataset": "d"} for n in range(3)], answers, MODEL)
        assert rows[0] == {"dataset": "d", "instruction": "do 0", "output": "one", "generator": MODEL}
        path = written(tmp_path / "model_outputs.json", rows)
    else:
        path = written(tmp_path / "m.jsonl", arena_answers(protocol(name), answers, MODEL, 12.0))
    assert read_answers(path, protocol(name), questions) == Answers(MODEL, answers)


def test_tokens_are_written_for_all_answers_or_none() -> None:
    """arena-hard-auto of 2024 reads `token_len` in every row: an empty answer has 0."""
    for tokens, expected in (([5, 0, 7], [5, 0, 7]), ([0, 0, 0], [None] * 3)):
        answers = [Completion(q.id, q.prompt, "a", n, True) for q, n in zip(asked(), tokens, strict=True)]
        rows = arena_answers(protocol("arena_hard_v0_1"), answers, MODEL, 12.0)
        assert [row["choices"][0]["turns"][0].get("token_len") for row in rows] == expected
        assert len({row["answer_id"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:2], "has no answer to 1 rows (3) of AlpacaEval 2.0; add them to the file"),
        (lambda rows: [], "has no answer to 3 rows (1, 2, 3) of"),
        (lambda rows: [*rows, rows[1]], "1 rows (4) answer a question a second time; keep one answer to each"),
        (
            lambda rows: [rows[0] | {"instruction": "do 0 "}, *rows[1:]],
            "1 rows (1) answer no question of AlpacaEval 2.0; remove them from the file",
        ),
        (lambda rows: [{"output": "x"}, *rows], "row 1 has another layout (no 'instruction'); name a file that"),
        (
            lambda rows: [rows[0] | {"output": None}, *rows[1:]],
            "row 1 has another layout (NoneType where a text is expected)",
        ),
        (lambda rows: ["text", *rows], "row 1 has another layout"),
        (lambda rows: {"rows": rows}, "is not a list of answers; name a file that"),
        (
            lambda rows: [*rows[:2], rows[2] | {"output": "\ud800"}],
            "the answers in 1 rows (3) cannot be encoded (lone surrogate or NUL); fix them",
        ),
        (
            lambda rows: [*rows[:2], rows[2] | {"generator": "other"}],
            "holds answers of other, their/model; keep those of one model",
        ),
    ],
)
def test_a_file_that_does_not_answer_each_question_once_is_refused_in_one_line(
    tmp_path: Path, change: Callable, message: str
) -> None:
    path = written(tmp_path / "model_outputs.json", change(alpaca_rows()))
    with pytest.raises(ValueError) as caught:
        read_answers(path, protocol("alpaca_eval_2"), asked())
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


def test_a_row_of_an_arena_file_that_is_no_answer_is_refused_in_one_line(tmp_path: Path) -> None:
    for row, reason in (({"question_id": "q0", "choices": []}, "list index out of range"), ({"choices": 1}, "no 'que")):
        path = written(tmp_path / "m.jsonl", [row])
        with pytest.raises(ValueError, match=reason):
            read_answers(path, protocol("arena_hard_v0_1"), asked())


def stages(*overrides: str) -> dict[str, Stage]:
    row = row_stages(compose(list(overrides)), "theirs")
    return {stage.kind: stage for stage in in_order(row.stages())}


def test_the_content_of_the_file_is_in_the_key_and_its_place_is_not(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.json", alpaca_rows()[: 3 - (name == "c")]) for name in "abc"]
    a, b, c = (stages(f"+generate.answers.alpaca_eval={path}") for path in paths)
    assert a["answers"].title == b["answers"].title and a["judge"].key == b["judge"].key
    assert a["answers"].key != c["answers"].key and a["judge"].key != c["judge"].key


def test_what_has_a_file_is_judged_and_nothing_else_is_made(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", alpaca_rows())
    found = stages(f"+generate.answers.alpaca_eval={path}")
    assert found.keys() == {"benchmark", "answers", "judge"}
    assert found["judge"].settings["protocols"].keys() == {"alpaca_eval"} == found["answers"].inputs.keys()


def test_a_file_is_one_sample_in_a_table_of_several_seeds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", alpaca_rows())
    plan = planned(["table=answers", "seeds=3", f"+generate.answers.alpaca_eval={path}"])
    assert list(plan.rows) == [("given", "given", "1")]


def test_rows_of_files_stand_beside_trained_rows_in_a_table_of_ones_own(tmp_path: Path) -> None:
    """They share the benchmark's stage and the judge, and need no model."""
    path = written(tmp_path / "a.json", alpaca_rows())
    table = yaml.safe_load((EVAL.parent / "conf/table/pocket.yaml").read_text())
    overrides = [f"+generate.answers.alpaca_eval={path}"]
    table["rows"]["theirs"] = {"label": "Theirs", "seeds": 1, "trained": False, "overrides": overrides}
    (tmp_path / "table").mkdir()
    (tmp_path / "table/own.yaml").write_text(yaml.safe_dump(table))
    rows = planned([f"hydra.searchpath=[{tmp_path}]", "table=own", "settings=base", "rows=dpo,theirs"]).rows
    dpo, theirs = rows["base", "dpo", "1"], rows["base", "theirs", "1"]
    assert len(rows) == 6 and (theirs.train, theirs.check, theirs.capability, theirs.anchors) == (None,) * 4
    assert theirs.generate.inputs["alpaca_eval"].key == dpo.generate.inputs["alpaca_eval"].key
    asked = dpo.judge.settings["protocols"]["alpaca_eval"]
    assert theirs.judge.settings["protocols"] == {"alpaca_eval": asked}
    assert theirs.judge.settings["judge"] == dpo.judge.settings["judge"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+generate.answers.alpaca={}", "alpaca is no benchmark that is judged; name one of alpaca_eval, arena_hard"),
        ("+generate.answers.alpaca_eval={}/none", "/none is no file; correct the path"),
    ],
)
def test_a_wrong_file_is_reported_before_anything_starts(tmp_path: Path, override: str, message: str) -> None:
    path = written(tmp_path / "a.json", alpaca_rows())
    with pytest.raises(ValueError, match=message):
        compose([override.format(path)])
    with pytest.raises(ValueError, match="choose a judge by judge=NAME"):
        compose([f"+generate.answers.alpaca_eval={path}", "setting=laptop"])
