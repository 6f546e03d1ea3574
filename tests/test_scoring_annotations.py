"""Annotation files that others made: any key order, row order and extra keys; missing values are reported."""

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from focalpo.scoring.annotations import read_annotations, score
from focalpo.scoring.length_control import fit, length_controlled, read_gamed
from recipes import annotations

PROMPTS = 60
Write = Callable[..., Path]


def rows(seed: int = 0) -> list[dict]:
    draw = np.random.default_rng(seed)
    return [
        {
            "instruction": f"prompt {i}",
            "output_1": "r" * int(draw.integers(50, 400)),
            "generator_1": "gpt4_1106_preview",
            "output_2": "m" * int(draw.integers(50, 900)),
            "generator_2": "ours",
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
            "preference": float(draw.uniform(1, 1.5)),
        }
        for i in range(PROMPTS)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: object, name: str = "ours.json") -> Path:
        text = json.dumps(content).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        return tmp_path / name

    return written


@pytest.fixture
def gamed_file(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    lengths = np.concatenate([draw.normal(-1.5, 0.5, PROMPTS), draw.normal(1.5, 0.5, PROMPTS)])
    difficulty = np.tile(np.concatenate([[0.0], draw.normal(0, 0.7, PROMPTS - 1)]), 2)
    preference = 1 / (1 + np.exp(1.5 * np.tanh(lengths) - difficulty))
    names = np.repeat(["verbose", "concise"], PROMPTS)
    columns = {"preference": preference, "index": [*range(PROMPTS)] * 2, "std_delta_len": lengths}
    table = pd.DataFrame(columns | {"instruction_difficulty": difficulty, "not_gamed_baseline": False, "model": names})
    table.to_csv(tmp_path / "df_gamed.csv", index=False)
    return tmp_path / "df_gamed.csv"


def test_orders_of_keys_and_rows_extra_keys_and_compression_change_nothing(write: Write, gamed_file: Path) -> None:
    gamed, made = read_gamed(gamed_file), rows()
    expected = score(read_annotations(write(made)), gamed)
    other = [dict(reversed([*row.items(), ("raw_completion", {"x": [i]})])) for i, row in enumerate(made)]
    instructions = [row["instruction"] for row in made]
    shuffled = write([other[i] for i in np.random.default_rng(2).permutation(PROMPTS)], "shuffled.json.gz")
    assert score(read_annotations(shuffled, instructions), gamed) == expected


@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated", "ignore:Deprecated call to `pkg_resources")
def test_missing_preferences_are_treated_as_the_library_treats_them(
    write: Write, gamed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    made = rows()
    made[3]["preference"], made[7]["preference"] = None, float("nan")
    del made[50]["preference"]
    made[9]["preference"] = 0
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(gamed_file))
    theirs = glm_winrate.get_length_controlled_winrate(pd.DataFrame(made), save_weights_dir=None)
    sklearn.set_config(enable_metadata_routing=False)  # the library enables it for the whole process
    found = read_annotations(write(made))
    ours = score(found, read_gamed(gamed_file))
    assert found.missing == [3, 7, 50] and ours.judged == theirs["n_total"] == PROMPTS - 3
    assert ours.win_rate == pytest.approx(theirs["win_rate"], rel=1e-13)
    assert ours.standard_error == pytest.approx(theirs["standard_error"], rel=1e-13)
    assert ours.discrete_win_rate == pytest.approx(theirs["discrete_win_rate"], rel=1e-13)
    assert ours.length_controlled == pytest.approx(theirs["length_controlled_winrate"], rel=1e-13)


def test_rows_keep_their_difficulties_when_others_are_absent(write: Write, gamed_file: Path) -> None:
    """Every other row is scored with its own difficulty; without the questions it would be that of the first rows."""
    made, gamed = rows(), read_gamed(gamed_file)
    found = read_annotations(write(made[1::2]), [row["instruction"] for row in made])
    assert list(found.place) == list(range(1, PROMPTS, 2))
    by_hand = replace(gamed, prompt_difficulty=gamed.prompt_difficulty[1::2])
    expected = fit(found.preference, found.reference_length, found.model_length, by_hand)
    assert score(found, gamed).length_controlled == length_controlled(expected, by_hand)
    unknown = read_annotations(write(made[1::2]))
    assert score(unknown, None).win_rate == score(found, None).win_rate
    with pytest.raises(ValueError, match=rf"{PROMPTS // 2} rows, .* {PROMPTS} prompts; .* pass --questions"):
        score(unknown, gamed)


def test_a_repeated_instruction_is_scored_twice(write: Write) -> None:
    made = rows()
    made[5]["instruction"] = made[2]["instruction"]
    found = read_annotations(write(made), [row["instruction"] for row in made])
    assert found.preference[[2, 5]].tolist() == [made[2]["preference"], made[5]["preference"]]


def test_a_model_against_itself_is_fifty_by_construction(write: Write, gamed_file: Path) -> None:
    made = [row | {"generator_2": row["generator_1"]} for row in rows()]
    assert score(read_annotations(write(made)), read_gamed(gamed_file)).length_controlled == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: {"rows": made}, "must hold a list of annotations"),
        (lambda made: [], "must hold a list of annotations"),
        (lambda made: [*made, made[0]], "not the benchmark's or occur twice"),
        (lambda made: [*made[1:], made[0] | {"instruction": "of another benchmark"}], "not the benchmark's"),
        (lambda made: [*made[1:], made[0] | {"generator_2": "theirs"}], r"compares \['ours', 'theirs'\]"),
        (
            lambda made: [*made[1:], made[0] | {"preference": 2.5}],
            r"rows \(59\) have no preference.*2.5 is not in \[1, 2\]",
        ),
        (lambda made: [*made[1:], made[0] | {"output_2": "\ud800"}], r"output_2 of 1 rows \(59\) cannot be encoded"),
        (lambda made: [*made[1:], made[0] | {"output_2": None}], r"1 rows \(59\) have no output_2"),
    ],
)
def test_a_file_that_is_not_one_models_annotations_is_rejected(write: Write, change: Callable, message: str) -> None:
    made = rows()
    with pytest.raises(ValueError, match=message):
        read_annotations(write(change(made)), [row["instruction"] for row in made])


def test_no_judged_row_is_an_error(write: Write, gamed_file: Path) -> None:
    nothing = [row | {"preference": None} for row in rows()]
    with pytest.raises(ValueError, match="has no judged row"):
        score(read_annotations(write(nothing)), read_gamed(gamed_file))
    with pytest.raises(ValueError, match="120 rows, the gamed rows have 60 prompts"):
        score(read_annotations(write(rows() + rows())), read_gamed(gamed_file))


def test_the_command_scores_a_folder_and_names_what_is_missing(
    write: Write, gamed_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = write(rows()[:1] + [rows()[1] | {"preference": None}] + rows()[2:]).parent
    monkeypatch.setattr(sys, "argv", ["annotations", str(folder), "--gamed", str(gamed_file)])
    annotations.main()
    header, line, missing = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "WR", "SE", "discrete", "LC", "judged"]
    assert line.split()[0] == "ours" and line.split()[-1] == "59"
    assert missing == "  no preference, left out: 1 rows (1)"


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        (
            [1.2, True, 2, False],
            r"2 rows \(1, 3\) have no preference from 1 to 2 \(the first: preference True is no number",
        ),
        ([1.2, [1.0]], r"1 rows \(1\) .*preference \[1.0\] is no number"),
        ([1.2, "1.4", {"a": 1}], r"2 rows \(1, 2\) .*preference '1.4' is no number"),
        ([1.2, -1, 3, 0.5], r"3 rows \(1, 2, 3\) .*preference -1 is not in \[1, 2\]"),
        ([1.2, float("inf")], r"1 rows \(1\) .*preference inf is no number"),
        ([0, 1, 1, 0], "every preference is in 0 .. 1, but the scale is 1 .* to 2 .* add 1 to each"),
        ([0.2, 0.9], "every preference is in 0 .. 1"),
        ([0, 0, None], "every preference is in 0 .. 1"),
        ([True, False, 0, 1], "every preference is in 0 .. 1"),
    ],
)
def test_what_is_no_preference_from_1_to_2_is_named_by_row(write: Write, preferences: list, message: str) -> None:
    made = [row | {"preference": given} for row, given in zip(rows(), preferences, strict=False)]
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(made))
    assert "\n" not in str(caught.value)


def test_a_draw_is_a_half_however_it_is_written(write: Write) -> None:
    """Wins 0, 1, 1/2, 1/2 of four rows are 50 %; the fifth was never judged."""
    made = [row | {"preference": given} for row, given in zip(rows(), [1, 2, 1.5, 0, ""], strict=False)]
    found = read_annotations(write(made))
    assert found.missing == [4]
    assert score(found, None).win_rate == score(found, None).discrete_win_rate == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"instruction": "a",}]', "line 1 is not JSON"),
        (b'[{"preference": 1, "preference": 2}]', "names the key 'preference' twice in one object, in row 1; keep one"),
        (b'[{"a": 1}, {"b": {"c": 1, "c": 1}}]', "names the key 'c' twice in one object, in row 2; keep one"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "cannot be read .Exceeds the limit"),
        (b"\xff\xfe[\x00]", "is not UTF-8 at byte 0"),
        (b"\x1f\x8bxx", "is a truncated gzip file"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_is_no_json_is_rejected_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ours.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_questions_file_without_instructions_is_rejected(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    annotated, questions = write(rows()), write([{"question": "a"}], "questions.json")
    monkeypatch.setattr(sys, "argv", ["annotations", str(annotated), "--questions", str(questions)])
    with pytest.raises(ValueError, match=r"questions.json: 1 rows \(0\) have no instruction"):
        annotations.main()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No columns to parse"),
        (b"\xff\xfe\x00", "can't decode|codec"),
        (b"preference,index\n0.5,1\n", "no column 'std_delta_len'"),
        (b"index,std_delta_len,instruction_difficulty,preference\n0,1,2,high\n", "could not convert"),
        (
            b"index,std_delta_len,instruction_difficulty,preference\n0,1,,0.5\n",
            "column instruction_difficulty has rows",
        ),
        (b"index,std_delta_len,instruction_difficulty,preference\n", "column index has rows without a number"),
    ],
)
def test_a_file_that_is_no_table_of_gamed_rows_is_rejected_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "df_gamed.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_gamed(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
