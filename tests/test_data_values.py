"""Values as the field writes them: system columns, histories, content parts, ShareGPT, JSON text, odd kinds."""

import json

import pytest

from focalpo.data import values
from focalpo.data.schemas import convert
from focalpo.data.sources import FileSource, load
from focalpo.data.validate import EMPTY
from focalpo.stages.records import Pair, read_records, write_records

PLAIN = {"prompt": "Name a river.", "chosen": "Elbe.", "rejected": "Bananas."}
ALPACA = {"instruction": "Name a river.", "input": "", "chosen": "Elbe.", "rejected": "Bananas."}
JUDGED = {"instruction": "Name a river.", "output_1": "Elbe.", "output_2": "Bananas.", "preference": 1.2}
ASKED = [{"role": "user", "content": "Name a river."}]
ELBE, BANANAS = ([{"role": "assistant", "content": text}] for text in ("Elbe.", "Bananas."))
CHAT = {"prompt": ASKED, "chosen": ELBE, "rejected": BANANAS}
DIALOGUES = {"chosen": ASKED + ELBE, "rejected": ASKED + BANANAS}
BRIEF = {"role": "system", "content": "Be brief."}


def parts(*rows: dict) -> dict[int, tuple]:
    return {
        row: (pair.prompt, pair.chosen, pair.rejected) for row, pair in convert(list(rows), "here", "row").pairs.items()
    }


def bad(*rows: dict) -> dict[str, list[int]]:
    return convert(list(rows), "here", "row").bad


@pytest.mark.parametrize(
    "row", [PLAIN, ALPACA, JUDGED, CHAT, DIALOGUES], ids=["plain", "alpaca", "judged", "chat", "all"]
)
@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_column_is_the_system_turn_of_every_layout(row, column):
    found = parts(row | {column: "Be brief."}, row | {column: ""}, row)
    assert found == {1: ([BRIEF, *ASKED], "Elbe.", "Bananas."), 2: (ASKED, "Elbe.", "Bananas."), 3: found[2]}


def test_a_system_column_beside_a_system_turn_must_be_the_same():
    chat = CHAT | {"prompt": [BRIEF, *ASKED]}
    rows = [chat | {"system": " Be brief.\n"}, chat | {"system": "Be long."}, chat, CHAT | {"system": 7}]
    assert list(parts(*rows)) == [1, 3] and parts(*rows)[1][0] == [BRIEF, *ASKED]
    assert bad(*rows) == {values.SYSTEMS: [2], values.MISSING: [4]}
    empty = CHAT | {"prompt": [{"role": "system", "content": ""}, *ASKED]}
    assert parts(empty | {"system": "Be brief."})[1][0] == [BRIEF, *ASKED]
    assert bad(PLAIN | {"system": "a", "system_prompt": "b"}) == {values.SYSTEMS: [1]}


@pytest.mark.parametrize("row", [PLAIN, ALPACA, JUDGED], ids=["plain", "alpaca", "judged"])
def test_a_history_becomes_turns_before_the_request(row):
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    history = [["Hi", "Yes?"]]
    rows = [row | {"history": history, "system": "Be brief."}, row | {"history": []}, row | {"history": before}]
    assert [prompt for prompt, _, _ in parts(*rows).values()] == [[BRIEF, *before, *ASKED], ASKED, before + ASKED]


@pytest.mark.parametrize("history", ["Hi", [["Hi"]], [["Hi", None]], ["Hi", "Yes?"], [["a", "b", "c"]], {"a": "b"}, 3])
def test_a_history_that_is_no_list_of_questions_and_answers_is_a_bad_row(history):
    assert bad(ALPACA, ALPACA | {"history": history}) == {values.MISSING: [2]}


def test_text_parts_are_joined():
    texts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "a river.", "image_url": None}]
    row = CHAT | {"prompt": [{"role": "user", "content": texts}]}
    assert parts(row, CHAT) == {1: (ASKED, "Elbe.", "Bananas."), 2: (ASKED, "Elbe.", "Bananas.")}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "cat.png"}},
        {"type": "input_audio", "input_audio": {"data": "x"}},
        {"type": "text", "text": "a", "image": "cat.png"},
        {"type": "text", "text": None},
        {"text": "a"},
        7,
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_a_part_that_is_not_text_is_a_bad_row(part, column):
    content = [{"type": "text", "text": "Look: "}, part]
    row = CHAT | {column: [CHAT[column][0] | {"content": content}]}
    assert bad(CHAT, row, CHAT) == {values.PARTS: [2]}


def test_a_message_without_content_is_a_bad_row():
    row = CHAT | {"chosen": [{"role": "assistant"}]}
    assert bad(CHAT, row, CHAT) == {values.MISSING: [2]}


def shared(*turns: tuple[str, str]) -> list[dict]:
    return [{"from": speaker, "value": text} for speaker, text in turns]


def test_the_layouts_of_sharegpt():
    asked = shared(("system", "Be brief."), ("human", "Name a river."))
    expected = ([BRIEF, *ASKED], "Elbe.", "Bananas.")
    conversations = {"conversations": asked, "chosen": {"from": "gpt", "value": "Elbe."}}
    rows = [
        conversations | {"rejected": {"from": "gpt", "value": "Bananas."}},
        conversations | {"rejected": shared(("gpt", "Bananas."))},
        conversations | {"rejected": "Bananas."},
        {"conversations": asked[1:], "system": "Be brief.", "chosen": "Elbe.", "rejected": "Bananas."},
    ]
    assert list(parts(*rows).values()) == [expected] * 4
    whole = {"chosen": asked + shared(("gpt", "Elbe.")), "rejected": asked + shared(("gpt", "Bananas."))}
    assert parts(whole)[1] == expected
    assert bad(rows[0], rows[0] | {"rejected": {"from": "observation", "value": "Bananas."}}) == {values.TURNS: [2]}


# JSON text


@pytest.mark.parametrize(
    "row", [CHAT, DIALOGUES, DIALOGUES | {"prompt": "Name a river."}], ids=["chat", "dialogues", "both"]
)
def test_messages_stored_as_json_text_are_read(row):
    stored = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
    assert parts(stored, row) == {1: (ASKED, "Elbe.", "Bananas."), 2: (ASKED, "Elbe.", "Bananas.")}
    assert parts({name: f" {value}\n" if value[0] == "[" else value for name, value in stored.items()}) == {
        1: (ASKED, "Elbe.", "Bananas.")
    }


@pytest.mark.parametrize(
    "answer", ["[1, 2]", '["a"]', "[]", '{"a": 1}', '[{"name": "Elbe"}]', '{"role": "engineer"}', "[see"]
)
def test_an_answer_that_is_json_and_no_messages_stays_text(answer):
    assert parts(PLAIN | {"chosen": answer}, PLAIN)[1] == (ASKED, answer, "Bananas.")


def test_one_row_whose_json_text_is_broken_is_named():
    stored = {name: json.dumps(value) for name, value in CHAT.items()}
    rows = [stored, stored | {"chosen": stored["chosen"][:-3]}, stored, stored | {"rejected": repr(BANANAS)}]
    assert bad(*rows) == {values.GARBLED: [2, 4]}
    assert bad(PLAIN, PLAIN | {"chosen": stored["chosen"]}, PLAIN) == {values.MISSING: [2]}


def test_printed_messages_in_every_row_are_never_trained_on_as_text():
    with pytest.raises(ValueError, match=r"chosen \(garbled messages\), rejected \(garbled messages\) match no known"):
        parts(PLAIN | {"chosen": repr(ELBE), "rejected": repr(BANANAS)})
    object_text = {name: json.dumps(value[0]) for name, value in CHAT.items() if name != "prompt"}
    assert parts(PLAIN | {"prompt": ASKED} | object_text) == {1: (ASKED, "Elbe.", "Bananas.")}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda messages: json.dumps({"messages": messages}),
        lambda messages: json.dumps(json.dumps(messages)),
        lambda messages: json.dumps([messages]),
        lambda messages: json.dumps([json.dumps(messages)]),
    ],
)
def test_json_with_messages_inside_is_a_text_in_one_row_and_refused_in_all(wrapped):
    row = PLAIN | {"chosen": wrapped(ELBE)}
    assert parts(PLAIN, row, PLAIN)[2] == (ASKED, wrapped(ELBE), "Bananas.")
    with pytest.raises(ValueError, match=r"chosen \(wrapped messages\), rejected \(text\) match no known schema"):
        parts(row, row, row)


# Kinds


@pytest.mark.parametrize("odd", [7, 7.5, True, ["a"], {"a": 1}, float("nan"), None, b"bytes"], ids=repr)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("place", [0, 2])
def test_one_odd_value_is_a_bad_row_wherever_it_stands(odd, column, place):
    rows = [PLAIN] * 3
    rows[place] = PLAIN | {column: odd}
    assert bad(*rows) == {values.MISSING: [place + 1]} and len(parts(*rows)) == 2
    rows = [DIALOGUES] * 3
    if column in DIALOGUES:
        rows[place] = DIALOGUES | {column: odd}
        assert bad(*rows) == {values.MISSING: [place + 1]}


def test_the_layout_of_most_rows_is_the_layout_of_the_file():
    assert bad(DIALOGUES, *[PLAIN] * 3)  # the column prompt is missing in row 1, its answers are dialogues
    few = [DIALOGUES | {"prompt": "Name a river."}, *[PLAIN] * 2]
    assert bad(*few) == {values.MISSING: [1]}
    assert bad(*few[:2], few[0]) == {values.MISSING: [2]}
    assert bad(PLAIN, PLAIN | {"prompt": "\n\nHuman: Name a river."}) == {values.TURNS: [2]}


# Texts that no encoder can read


@pytest.mark.parametrize("text", ["half \ud83d", "\udcff", "a\0b"])
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected", "system", "prompt_id"])
def test_a_text_that_no_encoder_can_read_is_named_before_anything_is_written(tmp_path, text, column):
    rows = [PLAIN | {"prompt": f"Ask {n}", "system": "Be brief."} for n in range(20)]
    rows[11] |= {column: text}
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"no encoder can read .*: 1 in .*odd.jsonl row 12$"):
        load(FileSource(path, test_fraction=0.3), "error")
    checked = load(FileSource(path, test_fraction=0.3), "drop")
    assert checked.dropped == {values.UNENCODABLE: 1}
    write_records(tmp_path / "train.parquet", checked.train)
    assert read_records(tmp_path / "train.parquet", Pair) == checked.train


def test_a_column_that_is_not_read_may_hold_any_text():
    assert len(parts(PLAIN | {"source": "\udcff", "chosen": "ok \U0001f600"})) == 1


def test_nesting_deeper_than_pythons_stack_is_no_traceback():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert len(parts(PLAIN | {"tools": deep})) == 1  # as deep as it is, it holds nothing
    with pytest.raises(ValueError, match="column tools is not read"):
        parts(PLAIN | {"tools": [deep, 1]})


def test_bad_rows_of_several_kinds_are_each_counted_once(tmp_path):
    rows = [PLAIN | {"prompt": f"Ask {n}"} for n in range(20)]
    rows[1] |= {"chosen": 7}
    rows[2] |= {"chosen": "\ud800"}
    rows[3] |= {"chosen": ""}
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = load(FileSource(path, test_fraction=0.3), "drop")
    assert checked.dropped == {values.MISSING: 1, values.UNENCODABLE: 1, EMPTY: 1}
    assert len(checked.train) + len(checked.test) == 17
