"""All bad rows of both splits are found at once, by source row number, and reported or dropped."""

import pytest

from focalpo.data import validate, values
from focalpo.data.schemas import Split, convert
from focalpo.data.validate import alternates
from focalpo.stages.records import Pair


def messages(*turns: str) -> list[dict[str, str]]:
    """Messages with alternating user and assistant roles."""
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def pair(number: int, prompt=None, chosen: str = "yes", rejected: str = "no") -> Pair:
    """A valid pair with a unique prompt, except for the given values."""
    return Pair(f"row-{number}", prompt or messages(f"question {number}"), chosen, rejected)


def split(source: str, *pairs: Pair, start: int = 1, bad=None) -> Split:
    return Split(source, dict(enumerate(pairs, start)), "pairs", bad or {})


TEST = split("test.jsonl", pair(100), pair(101))


def test_valid_splits_pass_unchanged_and_in_order():
    train = split("train.jsonl", *(pair(n) for n in range(20)))
    checked = validate.validate(train, TEST, "error")
    assert [p.id for p in checked.train] == [f"row-{n}" for n in range(20)]
    assert [p.id for p in checked.test] == ["row-100", "row-101"]
    assert checked.dropped == {}
    assert checked.schemas == {"train": "pairs", "test": "pairs"}


BAD_PAIRS = {
    "an empty chosen": (pair(2, chosen=" \n"), validate.EMPTY),
    "an empty rejected": (pair(2, rejected=""), validate.EMPTY),
    "identical answers": (pair(2, chosen="yes", rejected=" yes\n"), validate.IDENTICAL),
    "an empty user turn": (pair(2, prompt=messages("a", "b", " ")), validate.EMPTY_TURN),
    "a prompt that ends with the assistant": (pair(2, prompt=messages("a", "b")), values.TURNS),
    "no prompt at all": (Pair("row-2", [], "yes", "no"), values.TURNS),
    "two user turns in a row": (pair(2, prompt=messages("a") + messages("b")), values.TURNS),
    "an unknown role": (pair(2, prompt=[{"role": "human", "content": "a"}]), values.TURNS),
    "the first pair again": (pair(1), validate.DUPLICATE),
    "a prompt of the test split": (pair(2, prompt=messages(" question 100 "), chosen="other"), validate.OVERLAP),
}


@pytest.mark.parametrize("what", BAD_PAIRS)
def test_a_bad_pair_is_reported_by_row_or_dropped_alone(what):
    bad, problem = BAD_PAIRS[what]
    train = split("train.jsonl", pair(1), bad, pair(3))
    with pytest.raises(ValueError) as caught:
        validate.validate(train, TEST, "error")
    assert str(caught.value).splitlines()[1:] == [f"  {problem}: 1 in train.jsonl row 2"]
    checked = validate.validate(train, TEST, "drop")
    assert [p.id for p in checked.train] == ["row-1", "row-3"]
    assert len(checked.test) == 2
    assert checked.dropped == {problem: 1}


def test_all_problems_of_both_splits_are_reported_at_once_one_per_line():
    train = Split(
        "train.jsonl",
        {
            1: pair(1),
            3: pair(3, chosen=""),
            4: pair(100, chosen="a"),
            5: pair(5, chosen="no"),
            **{n: pair(n, rejected="") for n in range(6, 11)},
        },
        bad={values.MISSING: [2], values.TIE: [11]},
    )
    test = split("test.jsonl", pair(100), pair(101, chosen=""), pair(100))
    with pytest.raises(ValueError) as caught:
        validate.validate(train, test, "error")
    assert str(caught.value).splitlines() == [
        "bad rows: fix them, or set on_bad_rows=drop",
        f"  {values.MISSING}: 1 in train.jsonl row 2",
        f"  {validate.EMPTY}: 7 in train.jsonl row 3, 6, 7, 8, 9, ...; test.jsonl row 2",
        f"  {validate.IDENTICAL}: 1 in train.jsonl row 5",
        f"  {validate.DUPLICATE}: 1 in test.jsonl row 3",
        f"  {validate.OVERLAP}: 1 in train.jsonl row 4",
    ]
    checked = validate.validate(train, test, "drop")
    assert [p.id for p in checked.train] == ["row-1"]
    assert [p.id for p in checked.test] == ["row-100"]
    assert checked.dropped == {
        values.MISSING: 1,
        values.TIE: 1,
        validate.EMPTY: 7,
        validate.IDENTICAL: 1,
        validate.DUPLICATE: 1,
        validate.OVERLAP: 1,
    }
    rows = len(train.pairs) + 2 + len(test.pairs)
    assert sum(checked.dropped.values()) + len(checked.train) + len(checked.test) == rows


def test_a_row_with_two_problems_is_reported_under_both_and_counted_once():
    train = split("train.jsonl", pair(1), pair(2, chosen="", rejected=" "))
    with pytest.raises(ValueError) as caught:
        validate.validate(train, TEST, "error")
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        validate.EMPTY,
        validate.IDENTICAL,
    ]
    assert validate.validate(train, TEST, "drop").dropped == {validate.EMPTY: 1}


def test_rows_that_fail_in_conversion_and_pairs_that_fail_later_share_one_report():
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [row, {**row, "prompt": None}, {**row, "chosen": ""}, {**row, "prompt": "d"}, {"prompt": "e"}]
    with pytest.raises(ValueError) as caught:
        validate.validate(convert(rows, "train.jsonl", "train"), TEST, "error")
    assert str(caught.value).splitlines()[1:] == [
        f"  {values.MISSING}: 2 in train.jsonl row 2, 5",
        f"  {validate.EMPTY}: 1 in train.jsonl row 3",
    ]


def test_two_splits_of_one_source_are_reported_as_that_source_in_row_order():
    train = Split("all.jsonl", {1: pair(1), 4: pair(4, chosen="")})
    test = Split("all.jsonl", {2: pair(2, chosen=""), 3: pair(3)})
    with pytest.raises(ValueError, match=f"{validate.EMPTY}: 2 in all.jsonl row 2, 4$"):
        validate.validate(train, test, "error")


def test_the_first_of_several_duplicates_stays_and_another_answer_is_not_a_duplicate():
    again = [pair(1), pair(1, rejected="never"), pair(1), pair(1, chosen="sure"), pair(1)]
    checked = validate.validate(split("train.jsonl", *again), TEST, "drop")
    assert [(p.chosen, p.rejected) for p in checked.train] == [("yes", "no"), ("yes", "never"), ("sure", "no")]
    assert checked.dropped == {validate.DUPLICATE: 2}


@pytest.mark.parametrize("turned", [pair(1, chosen="no", rejected="yes"), pair(1, chosen=" no", rejected="yes\n")])
def test_two_labels_that_contradict_each_other_are_both_bad(turned):
    """Neither can be trusted; that answers of equal text but other prompts are no contradiction, row 4 shows."""
    train = split("train.jsonl", pair(1), turned, pair(1, rejected="never"), pair(2, chosen="no", rejected="yes"))
    with pytest.raises(ValueError) as caught:
        validate.validate(train, TEST, "error")
    assert str(caught.value).splitlines()[1:] == [f"  {validate.CONTRADICTED}: 2 in train.jsonl row 1, 2"]
    checked = validate.validate(train, TEST, "drop")
    assert [(p.chosen, p.rejected) for p in checked.train] == [("yes", "never"), ("no", "yes")]
    assert checked.dropped == {validate.CONTRADICTED: 2}


def test_the_same_question_with_another_system_turn_is_not_an_overlap():
    prompt = [{"role": "system", "content": "Be brief."}, *messages("question 100")]
    assert validate.validate(split("train.jsonl", pair(1, prompt=prompt)), TEST, "error").dropped == {}


def test_an_empty_system_turn_is_valid():
    # The Zephyr template of the paper's Mistral runs contains one.
    prompt = [{"role": "system", "content": ""}, *messages("question 1")]
    assert validate.validate(split("train.jsonl", pair(1, prompt=prompt)), TEST, "error").dropped == {}


def test_the_prompt_of_a_dropped_test_row_is_still_kept_out_of_train():
    test = split("test.jsonl", pair(100), pair(7, chosen=""))
    checked = validate.validate(split("train.jsonl", pair(1), pair(7)), test, "drop")
    assert [p.id for p in checked.train] == ["row-1"]
    assert checked.dropped == {validate.EMPTY: 1, validate.OVERLAP: 1}


def test_ties_are_not_errors_but_are_counted():
    train = split("train.jsonl", pair(1), bad={values.TIE: [2, 3]})
    assert validate.validate(train, TEST, "error").dropped == {values.TIE: 2}


@pytest.mark.parametrize(
    ("train", "test", "where"),
    [
        (split("train.jsonl", pair(1, chosen="")), TEST, "no valid train pair in train.jsonl"),
        (split("train.jsonl", pair(1)), split("test.jsonl", pair(2, chosen="")), "no valid test pair in test.jsonl"),
        (split("train.jsonl", pair(100), pair(101)), TEST, "no valid train pair in train.jsonl"),
        (split("train.jsonl", bad={values.TIE: [1]}), TEST, "no valid train pair in train.jsonl"),
    ],
)
def test_a_split_without_valid_pairs_is_an_error_even_when_dropping(train, test, where):
    with pytest.raises(ValueError, match=where) as caught:
        validate.validate(train, test, "drop")
    assert len(str(caught.value).splitlines()) == 2


def test_a_mistyped_policy_is_rejected():
    with pytest.raises(ValueError, match="set it to error or drop"):
        validate.validate(split("train.jsonl", pair(1)), TEST, "dorp")


@pytest.mark.parametrize(
    ("roles", "valid"),
    [
        ("u", True),
        ("su", True),
        ("uau", True),
        ("suauau", True),
        ("", False),
        ("s", False),
        ("a", False),
        ("ua", False),
        ("usu", False),
        ("uu", False),
        ("aau", False),
        ("ssu", False),
        ("uaau", False),
        ("auu", False),
    ],
)
def test_turns_alternate_from_user_to_user_after_at_most_one_system_turn(roles, valid):
    names = {"u": "user", "a": "assistant", "s": "system"}
    assert alternates([{"role": names[role], "content": "x"} for role in roles]) is valid
