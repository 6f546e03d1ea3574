"""On-policy pairs: the recipe of princeton-nlp/llama3-ultrafeedback-armorm (SimPO, v0.2 data).

    prompts -> one sample per seed -> scored by a reward model -> best against worst answer of each prompt

This file holds the first and the last step: which prompts, and which answers make a pair. Sampling and scoring are
separate stages.
"""

import hashlib
from collections.abc import Sequence

from focalpo.data.columns import check_columns, check_ignored, column_values, without
from focalpo.data.hub import hub_rows
from focalpo.data.labels import words_of
from focalpo.data.schemas import Split
from focalpo.data.sources import sample
from focalpo.data.values import TIE
from focalpo.stages.reading import is_encodable
from focalpo.stages.records import Pair, Prompt, Rated

SPLITS = ("train", "test")


def hub_prompts(
    dataset: str, revision: str, splits: Sequence[str], limit: int | None, ignored: Sequence[str] = ()
) -> list[Prompt]:
    """The distinct prompts of a dataset's train and test split, sorted; a prompt in both counts as test.

    Raises:
        ValueError: when the dataset cannot be loaded, has no text column `prompt`, has a column beside it that could
            matter (the answers do not: the model writes its own), or a prompt that no encoder can read.
    """
    tables = {name: hub_rows(dataset, revision, name) for name in splits}
    check_ignored(ignored, tables.values(), dataset)
    split_of: dict[str, str] = {}
    for split, name in zip(SPLITS, splits, strict=True):
        rows = [without(row, ignored) for row in tables[name]]
        answers = {column for column in column_values(rows) if {"chosen", "rejected"}.intersection(words_of(column))}
        check_columns(rows, {"prompt", *answers}, f"{dataset} {name}", ignored)
        for number, row in enumerate(rows, 1):
            split_of[_prompt(row, f"{dataset} {name} row {number}")] = split
    prompts = {split: sorted(text for text, side in split_of.items() if side == split) for split in SPLITS}
    kept = {split: texts if limit is None else sample(texts, limit) for split, texts in prompts.items()}
    return [
        Prompt(hashlib.sha256(text.encode()).hexdigest(), split, [{"role": "user", "content": text}])
        for split, texts in kept.items()
        for text in texts
    ]


def _prompt(row: dict, where: str) -> str:
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(f"{where} has no text in column `prompt`; use a dataset that has one in every row")
    if not is_encodable(prompt):
        raise ValueError(f"{where} has a prompt that no encoder can read (not UTF-8, or a NUL byte); remove the row")
    return prompt


def best_against_worst(rated: Sequence[Rated], source: str) -> tuple[Split, Split]:
    """A train and a test split with one pair per prompt: the answer with the highest reward against the lowest.

    Of equally good answers the earlier seed's is taken, as by argmax and argmin. Where all answers score alike there is
    no preference: a tie, or two identical texts, which `validate` drops and counts.
    """
    answers: dict[str, list[Rated]] = {}
    for each in rated:
        answers.setdefault(each.id, []).append(each)
    pairs: dict[str, dict[int, Pair]] = {split: {} for split in SPLITS}
    ties: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number, (name, group) in enumerate(answers.items(), 1):
        best, worst = max(group, key=lambda each: each.reward), min(group, key=lambda each: each.reward)
        if best.reward == worst.reward and len({each.text for each in group}) > 1:
            ties[best.split].append(number)
        else:
            pairs[best.split][number] = Pair(name, best.prompt, best.text, worst.text)
    train, test = (Split(f"{source} {split}", pairs[split], "on policy", {TIE: ties[split]}) for split in SPLITS)
    return train, test
