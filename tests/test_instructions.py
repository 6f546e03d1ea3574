"""Verifiable instructions: what lm-eval's checkers say of answers that a reader can check by eye."""

import json

import pytest

from focalpo.checking.instructions import Followed, Instructed, check_kinds, followed


def asked(**kinds: dict) -> Instructed:
    """A prompt with the instructions `group__kind=arguments`."""
    names = [name.replace("__", ":") for name in kinds]
    return Instructed("p", "Write about tea.", names, [json.dumps(each) for each in kinds.values()])


@pytest.mark.parametrize(
    ("instructed", "answer", "strict", "loose"),
    [
        (asked(punctuation__no_comma={}), "Tea is warm.", [True], [True]),
        (asked(punctuation__no_comma={}), "Tea, warm.", [False], [False]),
        # Loose drops the first line, which is often "Sure, here it is:".
        (asked(punctuation__no_comma={}), "Sure, here:\nTea is warm.", [False], [True]),
        (asked(detectable_format__number_bullet_lists={"num_bullets": 2}), "* a\n* b", [True], [True]),
        (asked(detectable_format__number_bullet_lists={"num_bullets": 3}), "* a\n* b", [False], [False]),
        (
            asked(length_constraints__number_words={"num_words": 3, "relation": "less than"}, punctuation__no_comma={}),
            "one two three",
            [False, True],
            [False, True],
        ),
        (asked(keywords__existence={"keywords": ["leaf"]}), "", [False], [False]),
    ],
)
def test_an_answer_follows_what_a_reader_sees(instructed, answer, strict, loose):
    assert followed(instructed, answer) == Followed("p", strict, loose)


def test_a_kind_without_a_checker_or_without_its_data_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="no checker of keywords:rhyme"):
        check_kinds([asked(keywords__rhyme={})])
    monkeypatch.setattr("nltk.data.path", [])
    with pytest.raises(ValueError, match="nltk.downloader punkt_tab"):
        check_kinds([asked(length_constraints__number_sentences={"num_sentences": 3, "relation": "at least"})])
    check_kinds([asked(punctuation__no_comma={})])
