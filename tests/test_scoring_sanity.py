"""Broken, copied and contaminated data give one warning each; healthy data give none."""

import pytest

from focalpo.scoring.sanity import Overlap, health, health_warnings, overlap, overlap_warnings, repeats_itself
from focalpo.stages.records import Completion

GOOD = [f"answer {i} is unlike all the others" for i in range(20)]
REFERENCES = {str(i): f"reference {i}" for i in range(20)}


def completions(texts: list[str], finished: list[bool] | None = None) -> list[Completion]:
    ends = finished or [True] * len(texts)
    rows = enumerate(zip(texts, ends, strict=True))
    return [Completion(str(i), [], text, len(text.split()), end) for i, (text, end) in rows]


def test_the_health_of_four_answers_by_hand() -> None:
    """Empty, the reference with a space, a loop of 20 words, truncated: a quarter each; lengths 1 to 70."""
    texts = [" ", "reference 1 ", "on and " * 10, "cut off"]
    found = health(completions(texts, [True, True, True, False]), REFERENCES)
    assert [found[name] for name in ("empty", "identical", "repetitive", "unfinished")] == [0.25] * 4
    assert found["tokens"] == pytest.approx((0 + 2 + 20 + 2) / 4)
    assert found["characters"][0] == 1 and found["characters"][-1] == 70


@pytest.mark.parametrize(
    ("texts", "finished", "expected"),
    [
        (GOOD, [True] * 20, []),
        (["", *GOOD[1:]], [True] * 20, ["set: some answers are empty; they are scored as they stand"]),
        (GOOD, [False, *[True] * 19], []),  # 5% is not more than 5%
        (GOOD, [False] * 2 + [True] * 18, ["set: more than 5% of answers are cut at the token limit"]),
        (["yes no maybe " * 10] * 2 + GOOD[2:], [True] * 20, ["set: more than 5% of answers repeat themselves"]),
        ([*list(REFERENCES.values())[:3], *GOOD[3:]], [True] * 20, ["set: more than 10% of answers are the reference"]),
        ([*list(REFERENCES.values())[:19], ""], [False] * 20, ["set: the answers are the reference's own"]),
    ],
)
def test_a_warning_appears_where_the_share_is_too_large_and_nowhere_else(
    texts: list[str], finished: list[bool], expected: list[str]
) -> None:
    found = health_warnings("set", health(completions(texts, finished), REFERENCES))
    assert len(found) == len(expected) and all(map(str.startswith, found, expected))


def test_an_answer_is_repetitive_if_fewer_than_half_of_its_sequences_are_distinct() -> None:
    words = [f"w{i}" for i in range(23)]
    assert not repeats_itself(" ".join(words))  # 20 sequences of four, all distinct
    assert not repeats_itself("a b c d " * 4)  # 16 words: too short to decide
    assert repeats_itself("a b c d " * 6)  # 21 sequences, 4 distinct


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]


def test_prompts_that_were_trained_on_are_found_exactly_and_by_thirteen_words() -> None:
    words = [f"word{i}" for i in range(30)]
    questions = {"q0": asked("What is the capital of France?"), "q1": asked(" ".join(words))}
    examples = {
        "same": asked("what is  the capital of france"),
        "other": asked("What is the capital of Spain?"),
        "thirteen": asked("before this " + " ".join(words[5:18]) + " and after"),
        "twelve": asked("before this " + " ".join(words[5:17]) + " and after"),
        "turns": [*asked("hello"), {"role": "assistant", "content": "hi"}, *asked("What is the capital of France")],
        "quoted": [{"role": "assistant", "content": "What is the capital of France?"}, *asked("?!")],
    }
    found = overlap(examples, questions)
    assert found == Overlap([("same", "q0"), ("turns", "q0")], [("thirteen", "q1")])
    assert overlap_warnings("a against b", found) == [
        "a against b: 2 training prompts are prompts of the benchmark",
        "a against b: 1 training prompts share 13 words in a row with the benchmark's",
    ]
    assert overlap_warnings("a against b", Overlap([], [])) == []
