"""What a schema does not read is empty, a label, checked or named; nothing that could change a pair stays unsaid."""

import json
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from focalpo.data import columns, values
from focalpo.data.columns import check_ignored, override, score_columns
from focalpo.data.labels import is_label
from focalpo.data.schemas import convert
from focalpo.data.sources import FileSource, load
from focalpo.data.validate import IDENTICAL, alternates

PLAIN = {"prompt": "Name a river.", "chosen": "Elbe.", "rejected": "Bananas."}
ASKED = [{"role": "user", "content": "Name a river."}]


def says(text: str, **keys: object) -> list[dict]:
    return [{"role": "assistant", "content": text, **keys}]


CHAT = {"prompt": ASKED, "chosen": says("Elbe."), "rejected": says("Bananas.")}
DIALOGUES = {"chosen": ASKED + says("Elbe."), "rejected": ASKED + says("Bananas.")}


def converted(*rows: dict, ignored: tuple[str, ...] = ()):
    return convert(list(rows), "here", "row", ignored)


@pytest.mark.parametrize("row", [PLAIN, CHAT, DIALOGUES], ids=["plain", "chat", "dialogues"])
@pytest.mark.parametrize(
    "column",
    [
        {"tools": [{"name": "find"}]},
        {"images": ["cat.png"]},
        {"persona": "a pirate"},
        {"system_message": "Answer in French."},
        {"document": "The text to answer from."},
        {"label": 1},
        {"label": False},
        {"winner": "rejected"},
        {"preference": 0},
        {"chosen_logps": -3.0, "rejected_logps": -4.0},
        {"score_chosen": 3.0},
        {"turn": 0},
        {"source": "A long text to be summarised, which is no label. " * 10},
        {"id": {"better": 1}},
        {"output": "Neither of the two."},
        {"messages": ASKED + says("Rhine.")},
        {"": "a column without a name"},
        {"better_response_id": 1},
    ],
    ids=lambda column: " ".join(column) or "no name",
)
def test_a_column_that_could_change_a_pair_is_refused_until_it_is_named(row, column):
    with pytest.raises(ValueError) as caught:
        converted(row, row | column)
    message = str(caught.value)
    assert message.startswith("here: column") and "could change what a pair means" in message and "\n" not in message
    assert message.endswith(override(list(column)))
    named = converted(row, row | column, ignored=tuple(column))
    assert len(named.pairs) == 2 and named.not_read == list(column)


@pytest.mark.parametrize(
    "column",
    [
        {"tools": None},
        {"tools": []},
        {"images": [None]},
        {"function_call": {"name": None, "arguments": ""}},
        {"score": float("nan")},
        {"system": ""},
    ],
    ids=repr,
)
def test_a_column_that_is_empty_in_every_row_is_no_column(column):
    split = converted(PLAIN | column, PLAIN)
    assert len(split.pairs) == 2 and split.pairs[1].prompt == ASKED and not split.not_read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 7), ("idx", 0), ("__index_level_0__", 3), ("conversationId", "x"), ("uuid", "x"),
        ("source", "flan"), ("dataset", "ultrachat"), ("original_dataset", "x"), ("chosen_source", "human"),
        ("chosen-model", "gpt-4"), ("rejected_model", "llama"), ("model_name", "x"), ("generator_1", "x"),
        ("models", ["a", "b"]), ("category", "math"), ("url", "https://example.org/a?b=c"),
        ("created_at", "2024-01-01"), ("language", "en"),
    ],
)  # fmt: skip
def test_a_label_may_stay_unread_and_is_reported(name, value):
    split = converted(PLAIN | {name: value})
    assert len(split.pairs) == 1 and split.not_read == [name]


@pytest.mark.parametrize(
    "name", ["name", "prompt", "label", "system_id", "best_answer_id", "text", "标签", "id标签", "1"]
)
def test_other_names_are_no_labels(name):
    assert not is_label(name, ["x"])


def test_all_columns_are_named_at_once_with_those_that_are_already_ignored():
    rows = [PLAIN | {"tools": "find", "a b": 1, "weight": 2}]
    with pytest.raises(ValueError, match="columns tools, a b are not read") as caught:
        converted(*rows, ignored=("weight",))
    assert str(caught.value).endswith("""set 'data.ignore_columns=["weight","tools","a b"]'""")
    assert converted(*rows, ignored=("weight", "tools", "a b")).pairs


@pytest.mark.parametrize("names", [["a", "b_1"], ["a b", "c-d"], ["a,b"], ["it's"], ["x=y", "[z]", "ü"], [""]])
def test_the_command_that_an_error_shows_is_read_back_as_the_same_names(names):
    import shlex

    (argument,) = shlex.split(override(names))
    assert OverridesParser.create().parse_override(argument).value() == names


@pytest.mark.parametrize("name", ["sytem", "Tools", "content", "role"])
def test_a_name_to_ignore_that_is_no_column_is_refused(tmp_path, name):
    with pytest.raises(
        ValueError, match=f"has no column or message key {name}; .*columns: chosen, prompt, rejected"
    ) as e:
        check_ignored(["chosen", name], [[CHAT]], "here")
    assert "\n" not in str(e.value)


def test_a_name_to_ignore_may_be_a_column_of_one_split_or_a_message_key_even_in_json_text():
    check_ignored(["tools"], [[PLAIN], [PLAIN | {"tools": None}]], "here")
    text = {"chosen": json.dumps(says("Elbe.", weight=1))}
    check_ignored(["weight"], [[CHAT | text]], "here")


# Scores


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen_rating", "rejected_rating"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_avg_rating", "rejected_avg_rating"),
        ("reward_chosen_1", "reward_rejected_1"),
        ("chosenReward", "rejectedReward"),
    ],
)
def test_a_row_whose_scores_prefer_the_rejected_answer_is_bad_in_every_published_spelling(names):
    def scored(better: object, worse: object) -> dict:
        return PLAIN | dict(zip(names, (better, worse), strict=True))

    split = converted(
        scored(2, 1.5), scored(1, 2), scored(2, 2.0), scored("2", 1), scored(True, 0), scored(None, None),
        scored(3, None), scored(float("inf"), 1), scored(-1, -2),
    )  # fmt: skip
    assert list(split.pairs) == [1, 3, 6, 9] and split.equal_scores == [3] and not split.not_read
    assert split.bad == {
        f"scores contradict the pair ({names[0]} < {names[1]})": [2],
        columns.NO_SCORE: [4, 5, 7, 8],
    }


def test_scores_that_are_mostly_texts_are_not_compared_and_so_refused():
    with pytest.raises(ValueError, match=re.escape("data.ignore_columns=[score_chosen,score_rejected]")):
        converted(*[PLAIN | {"score_chosen": "8", "score_rejected": "9"}] * 3)
    assert not score_columns([PLAIN | {"chosen_tokens": 3, "rejected_tokens": 4}])


def test_contradicting_and_equal_scores_reach_the_report(tmp_path):
    rows = [PLAIN | {"prompt": f"Ask {n}", "score_chosen": n % 3, "score_rejected": 1} for n in range(60)]
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = load(FileSource(path, test_fraction=0.3), "drop")
    assert checked.dropped == {"scores contradict the pair (score_chosen < score_rejected)": 20}
    assert checked.equal_scores == 20 and len(checked.train) + len(checked.test) == 40
    with pytest.raises(ValueError, match=r"score_chosen < score_rejected\): 20 in .* row 1, 4, 7, 10, 13, ..."):
        load(FileSource(path, test_fraction=0.3), "error")


# Keys of messages


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tool_calls", [{"function": {"name": "find"}}]),
        ("function_call", {"name": "find"}),
        ("name", "Ann"),
        ("images", ["cat.png"]),
        ("weight", 0),
        ("reasoning_content", "Let me think."),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_message_with_a_key_that_is_not_read_is_a_bad_row_until_the_key_is_named(key, value, column):
    keyed = CHAT | {column: [message | {key: value} for message in CHAT[column]]}
    split = converted(CHAT, keyed)
    assert list(split.pairs) == [1] and split.bad == {values.unread_key(key): [2]}
    named = converted(CHAT, keyed, ignored=(key,))
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in named.pairs.values()] == [
        (ASKED, "Elbe.", "Bananas.")
    ] * 2


def test_empty_keys_and_labels_of_messages_change_nothing():
    labelled = says("Elbe.", tool_calls=[], name=None, images=[None], id="m1", model="x", timestamp="2024-01-01")
    assert converted(CHAT | {"chosen": labelled}).pairs[1].chosen == "Elbe."


def test_answers_that_differ_in_an_ignored_key_only_are_identical(tmp_path):
    def calling(name: str) -> list[dict]:
        return says("Let me look.", tool_calls=[{"function": {"name": name}}])

    rows = [CHAT | {"prompt": [{"role": "user", "content": f"Ask {n}"}]} for n in range(40)]
    rows[6] |= {"chosen": calling("find"), "rejected": calling("delete")}
    path = tmp_path / "tools.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FileSource(path, test_fraction=0.3)
    assert load(source, "drop").dropped == {values.unread_key("tool_calls"): 1}
    checked = load(source, "drop", ignore_columns=["tool_calls"])
    assert checked.dropped == {IDENTICAL: 1} and checked.not_read == ["tool_calls"]


def test_a_tool_turn_is_no_turn_of_a_pair():
    turns = [*ASKED, *says("Let me look."), {"role": "tool", "content": "Elbe"}]
    pairs = converted(CHAT, CHAT | {"prompt": turns, "chosen": "a", "rejected": "b"}).pairs
    assert [alternates(pair.prompt) for pair in pairs.values()] == [True, False]


# What the field keeps for supervised training


def test_a_supervised_column_that_repeats_an_answer_says_nothing_new():
    rows = [PLAIN | {"output": "Elbe."}, PLAIN | {"output": "Bananas."}, PLAIN | {"output": None}]
    assert len(converted(*rows).pairs) == 3
    assert len(converted(DIALOGUES | {"messages": DIALOGUES["chosen"]}).pairs) == 1
    with pytest.raises(ValueError, match="column output is not read"):
        converted(*rows, PLAIN | {"output": "Rhine."})
