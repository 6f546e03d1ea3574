"""Truncation by hand: a prompt of 1, 2, 3, ..., answers of 10, 11, ... and 20, 21, ..."""

from dataclasses import dataclass

import numpy as np
import pytest

from focalpo.data.truncation import RULES, Limits, cut
from focalpo.stages import ranges


@dataclass
class Named:
    truncation: ranges.Truncation


CASES = {
    # max_prompt_length 4, max_length 10; lengths of prompt, chosen, rejected --> what is left of each
    "at the limit": ((5, 5, 3), ([1, 2, 3, 4, 5], 5, 3)),
    "a long prompt that fits": ((8, 2, 1), ([1, 2, 3, 4, 5, 6, 7, 8], 2, 1)),
    "prompt only": ((6, 5, 2), ([3, 4, 5, 6], 5, 2)),
    "the rejected answer decides": ((6, 2, 5), ([3, 4, 5, 6], 2, 5)),
    "prompt and both answers": ((6, 9, 8), ([3, 4, 5, 6], 6, 6)),
    "only the longer answer is too long": ((6, 9, 3), ([3, 4, 5, 6], 6, 3)),
    "a short prompt leaves room unused": ((2, 9, 1), ([1, 2], 6, 1)),
    "a short prompt, one over": ((3, 8, 7), ([1, 2, 3], 6, 6)),
}


def parts(prompt: int, chosen: int, rejected: int) -> tuple[np.ndarray, list[np.ndarray]]:
    return np.arange(1, prompt + 1), [np.arange(10, 10 + chosen), np.arange(20, 20 + rejected)]


@pytest.mark.parametrize("name", CASES)
def test_the_recipes_rule_by_hand(name: str) -> None:
    lengths, (start, chosen, rejected) = CASES[name]
    prompt, answers = cut(*parts(*lengths), Limits(4, 10, "simpo"))
    assert prompt.tolist() == start
    assert [answer.tolist() for answer in answers] == [[*range(10, 10 + chosen)], [*range(20, 20 + rejected)]]


def test_the_recipes_rule_keeps_every_pair_within_the_limit() -> None:
    """Against the rule with lists and no arrays, for all lengths around the limits."""
    for lengths in np.ndindex(14, 14, 14):
        prompt, answers = parts(*(length + 1 for length in lengths))
        start, both = list(prompt), [list(answer) for answer in answers]
        if any(len(start) + len(answer) > 10 for answer in both):
            while len(start) > 4:
                start.pop(0)
            if any(len(start) + len(answer) > 10 for answer in both):
                both = [answer[:6] for answer in both]
        found, kept = cut(prompt, answers, Limits(4, 10, "simpo"))
        assert (found.tolist(), [ids.tolist() for ids in kept]) == (start, both)
        assert len(found) + max(map(len, kept)) <= 10


def test_a_prompt_that_is_kept_whole_by_hand() -> None:
    limits = Limits(4, 10, "keep_prompt")
    prompt, answers = cut(*parts(3, 9, 7), limits)
    assert prompt.tolist() == [1, 2, 3] and [len(answer) for answer in answers] == [7, 7]
    prompt, answers = cut(*parts(4, 6, 1), limits)
    assert prompt.tolist() == [1, 2, 3, 4] and [len(answer) for answer in answers] == [6, 1]
    with pytest.raises(ValueError, match="the prompt is too long: 5 tokens, longer than max_prompt_length=4"):
        cut(*parts(5, 1, 1), limits)


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="data.truncation='keep_end' is not one of simpo, keep_prompt"):
        Limits(4, 10, "keep_end")
    assert set(RULES) == {"simpo", "keep_prompt"}


def test_the_rules_are_those_that_the_configuration_allows() -> None:
    for rule in RULES:
        assert not list(ranges.out_of_range(Named(rule)))
    assert list(ranges.out_of_range(Named("keep_end"))) == ["truncation='keep_end' must be simpo or keep_prompt"]
