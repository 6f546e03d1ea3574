"""Checks for what would change the meaning of a score: contaminated training prompts, broken or copied answers.

    completions, references --> health: shares and lengths --> warnings
    training prompts, benchmark prompts --> overlaps, exact and by 13-gram --> warnings

Nothing here stops a stage: findings are reported in its manifest and above every table that it is part of. A warning
about answers holds no measured number, so that the same finding in many runs is one line; the manifests have the
numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focalpo.stages.records import Completion, Messages

GRAM = 13  # words in a row; GPT-3's measure of contamination (Brown et al. 2020, appendix C)
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
LOOP = 4  # words in a row whose repetition counts as a loop
SHORTEST_LOOP = 20  # words; shorter answers are never called repetitive
# A finding in more than this share of answers is a warning.
MOST = {"empty": 0.0, "unfinished": 0.05, "repetitive": 0.05, "identical": 0.10}
SAME_AS_REFERENCE = 0.95
WARNINGS = {
    "empty": "some answers are empty; they are scored as they stand",
    "unfinished": "more than 5% of answers are cut at the token limit; they are scored as they stand",
    "repetitive": "more than 5% of answers repeat themselves",
    "identical": "more than 10% of answers are the reference word for word; they count as ties without being judged",
}


@dataclass(frozen=True, slots=True)
class Overlap:
    """Training examples whose prompt is a benchmark's or shares 13 words in a row with it: (example, question) ids."""

    exact: list[tuple[str, str]]
    gram: list[tuple[str, str]]


def health(completions: Sequence[Completion], references: Mapping[str, str]) -> dict[str, float | list[float]]:
    """Describe one set of answers by shares of broken or copied ones, mean tokens and lengths.

    The shares are of empty, unfinished and repetitive answers and of answers identical to the reference; the lengths
    are in characters at the 0, 5, 25, 50, 75, 95 and 100% quantiles. `references` holds the benchmark's answers by id.
    """
    lengths = [len(completion.text) for completion in completions]
    return {
        "tokens": _mean([completion.tokens for completion in completions]),
        "empty": _mean([not completion.text.strip() for completion in completions]),
        "unfinished": _mean([not completion.finished for completion in completions]),
        "repetitive": _mean([repeats_itself(completion.text) for completion in completions]),
        "identical": _mean(
            [completion.text.strip() == references[completion.id].strip() for completion in completions]
        ),
        "characters": [float(length) for length in np.percentile(lengths, QUANTILES)],
    }


def health_warnings(name: str, found: Mapping[str, float | list[float]]) -> list[str]:
    """Warnings about one set of answers, most serious first."""
    if _share(found, "identical") >= SAME_AS_REFERENCE:
        return [f"{name}: the answers are the reference's own; the model is scored against itself, 50 by construction"]
    return [f"{name}: {WARNINGS[fault]}" for fault, most in MOST.items() if _share(found, fault) > most]


def repeats_itself(text: str) -> bool:
    """Whether fewer than half of the four-word sequences in an answer are distinct."""
    words = text.split()
    if len(words) < SHORTEST_LOOP:
        return False
    grams = list(_grams(words, LOOP))
    return len(set(grams)) < len(grams) / 2


def overlap(examples: Mapping[str, Messages], questions: Mapping[str, Messages]) -> Overlap:
    """Compare the user turns of training examples and of a benchmark, by id; ignores case, punctuation and spaces."""
    whole: dict[tuple[str, ...], str] = {}
    grams: dict[tuple[str, ...], str] = {}
    for question, messages in questions.items():
        for words in _user_turns(messages):
            whole.setdefault(tuple(words), question)
            for gram in _grams(words, GRAM):
                grams.setdefault(gram, question)
    found = Overlap([], [])
    for example, messages in examples.items():
        turns = list(_user_turns(messages))
        same = next((whole[tuple(words)] for words in turns if tuple(words) in whole), None)
        if same is not None:
            found.exact.append((example, same))
            continue
        shared = next((grams[gram] for words in turns for gram in _grams(words, GRAM) if gram in grams), None)
        if shared is not None:
            found.gram.append((example, shared))
    return found


def overlap_warnings(benchmark: str, found: Overlap) -> list[str]:
    """Warnings about a benchmark whose prompts are in the training data."""
    warnings = []
    if found.exact:
        warnings.append(f"{benchmark}: {len(found.exact)} training prompts are prompts of the benchmark")
    if found.gram:
        count = len(found.gram)
        warnings.append(f"{benchmark}: {count} training prompts share {GRAM} words in a row with the benchmark's")
    return warnings


def _user_turns(messages: Messages) -> list[list[str]]:
    turns = [re.findall(r"\w+", message["content"].lower()) for message in messages if message["role"] == "user"]
    return [words for words in turns if words]


def _grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(length)), strict=False))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _share(found: Mapping[str, float | list[float]], name: str) -> float:
    share = found[name]
    assert isinstance(share, float)
    return share
