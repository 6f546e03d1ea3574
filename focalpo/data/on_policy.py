"""Pairs of the model's own answers: the recipe of princeton-nlp/llama3-ultrafeedback-armorm (SimPO, v0.2 data).

    prompts -> one sample for each seed -> rated by a reward model -> the best against the worst of each prompt

This file holds the two ends: which prompts, and which answers make a pair. Sampling and rating are stages of their own.
"""

import hashlib
from collections.abc import Sequence

from focalpo.data.schemas import Split
from focalpo.data.sources import hub_rows, sample
from focalpo.stages.records import Pair, Prompt, Rated

SPLITS = ("train", "test")


def hub_prompts(dataset: str, revision: str, splits: Sequence[str], limit: int | None) -> list[Prompt]:
    """The different prompts of a data set's train and test split, sorted; a prompt of both is a test prompt.

    Raises:
        ValueError: when the data set cannot be had, or has no column `prompt` of texts.
    """
    found: dict[str, str] = {}
    for split, name in zip(SPLITS, splits, strict=True):
        for row in hub_rows(dataset, revision, name):
            if not isinstance(row.get("prompt"), str):
                raise ValueError(f"{dataset} {name} has no column `prompt` of texts; name a data set that has one")
            found[row["prompt"]] = split
    prompts = {split: sorted(text for text, where in found.items() if where == split) for split in SPLITS}
    kept = {split: texts if limit is None else sample(texts, limit) for split, texts in prompts.items()}
    return [
        Prompt(hashlib.sha256(text.encode()).hexdigest(), split, [{"role": "user", "content": text}])
        for split, texts in kept.items()
        for text in texts
    ]


def best_against_worst(rated: Sequence[Rated], source: str) -> tuple[Split, Split]:
    """A train and a test split with one pair a prompt: its highest rated answer against its lowest rated one.

    Among equal rewards the earlier seed is taken, as argmax and argmin take it. Answers that are all the same make a
    pair of two identical texts, which `validate` drops and counts.
    """
    answers: dict[str, list[Rated]] = {}
    for each in rated:
        answers.setdefault(each.id, []).append(each)
    pairs: dict[str, dict[int, Pair]] = {split: {} for split in SPLITS}
    for number, (name, group) in enumerate(answers.items(), 1):
        best, worst = max(group, key=lambda each: each.reward), min(group, key=lambda each: each.reward)
        pairs[best.split][number] = Pair(name, best.prompt, best.text, worst.text)
    train, test = (Split(f"{source} {split}", pairs[split], schema="on policy") for split in SPLITS)
    return train, test
