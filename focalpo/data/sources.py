"""Sources of pairs: a file or a pinned hub dataset in, checked train and test pairs out (`load`).

Pitfall of the paper's data: trl-lib/ultrafeedback_binarized (62.1k train + 1k test) has as many pairs as the preference
splits of HuggingFaceH4/ultrafeedback_binarized (61.1k + 2k), so it looks like the same pairs split differently; its
train split then contains half of H4's test_prefs. Take the test pairs from the dataset of the train pairs: `validate`
detects an overlap only between the two splits of one run. The prompts of the test split of
princeton-nlp/llama3-ultrafeedback-armorm are reported to be those of test_prefs too (SimPO issue 74).
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from focalpo.data.columns import check_ignored
from focalpo.data.files import read_rows
from focalpo.data.hub import hub_rows
from focalpo.data.schemas import Split, convert
from focalpo.data.validate import Checked, validate
from focalpo.data.values import prompt_key
from focalpo.stages.records import Messages

# Fixed, so that `limit` selects the same pairs in every run, whatever the seed of the run.
LIMIT_SEED = 0
Item = TypeVar("Item")
Converted = Callable[[list[dict], str, str, Sequence[str]], Split]
"""Rows, their source, a prefix of ids and ignored columns -> a split: `convert`, or of single answers."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """Pairs in a file; the test pairs are in `test_path`, or are a fraction of the prompts of `path`."""

    path: Path
    test_path: Path | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        check_test_choice("test_path", self.test_path, self.test_fraction)

    def tables(self) -> list[tuple[str, list[dict]]]:
        """(name, rows) of train, then of test if it is a separate file."""
        return [(str(path), read_rows(path)) for path in (self.path, self.test_path) if path is not None]


@dataclass(frozen=True, slots=True)
class HubSource:
    """Pairs in a hub dataset at a pinned revision; see the module's docstring before mixing UltraFeedback datasets."""

    dataset: str
    revision: str
    train_split: str
    test_split: str | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        check_test_choice("test_split", self.test_split, self.test_fraction)

    def tables(self) -> list[tuple[str, list[dict]]]:
        """(name, rows) of train, then of test if it is a separate split."""
        splits = [split for split in (self.train_split, self.test_split) if split is not None]
        return [(f"{self.dataset} {split}", hub_rows(self.dataset, self.revision, split)) for split in splits]


def load(
    source: FileSource | HubSource,
    on_bad_rows: Literal["error", "drop"],
    limit: int | None = None,
    ignore_columns: Sequence[str] = (),
    converted: Converted = convert,
) -> Checked:
    """Read, convert, split and check; `limit` keeps at most that many valid pairs of train and of test (see `sample`).

    `ignore_columns` names columns, and keys of messages, that may stay unread although they are no mere labels.

    Raises:
        ValueError: when the source cannot be read, its columns match no schema or are not read, a name to ignore
            is none of them, or rows are bad (see `validate`).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; set it to at least 1, or to null for all pairs")
    checked = validate(*read_splits(source, ignore_columns, converted), on_bad_rows)
    if limit is None:
        return checked
    return replace(checked, train=sample(checked.train, limit), test=sample(checked.test, limit))


def read_splits(
    source: FileSource | HubSource, ignored: Sequence[str], converted: Converted = convert
) -> tuple[Split, Split]:
    """Train and test as the source provides them, or its single split divided by prompt."""
    tables = source.tables()
    check_ignored(ignored, [rows for _, rows in tables], tables[0][0])
    if source.test_fraction is not None:
        [(name, rows)] = tables
        # "row", not "train": the id of a pair must not suggest one of the two splits.
        return hold_out(converted(rows, name, "row", ignored), source.test_fraction)
    (train_name, train_rows), (test_name, test_rows) = tables
    train, test = converted(train_rows, train_name, "train", ignored), converted(test_rows, test_name, "test", ignored)
    return train, test


def hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Divide a split into train and test so that no prompt is in both: the text of a prompt alone decides its side.

    Rows that could not be converted stay with train, and so does the list of rows with equal scores.

    Raises:
        ValueError: when one side is empty and no row is bad; bad rows are reported by `validate`, as the cause.
    """
    test = {row: pair for row, pair in split.pairs.items() if prompt_position(pair.prompt) < fraction}
    train = {row: pair for row, pair in split.pairs.items() if row not in test}
    if split.pairs and not split.bad and not (train and test):
        empty = "train" if test else "test"
        raise ValueError(f"test_fraction={fraction} leaves {empty} empty in {split.source}; choose another fraction")
    return replace(split, pairs=train), replace(split, pairs=test, bad={}, equal_scores=())


def prompt_position(prompt: Messages) -> float:
    """A fixed, uniformly distributed position in [0, 1) for a prompt: the first 64 bits of its SHA-256."""
    digest = hashlib.sha256(json.dumps(prompt_key(prompt)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample(items: list[Item], limit: int) -> list[Item]:
    """The first `limit` items of a fixed shuffle: the sample of a smaller limit is a prefix of that of a larger one."""
    shuffled = list(items)
    random.Random(LIMIT_SEED).shuffle(shuffled)
    return shuffled[:limit]


def check_test_choice(name: str, value: object, fraction: float | None) -> None:
    """Check that a source defines its test pairs in exactly one way.

    Raises:
        ValueError: when it defines them in no way or in two, or the fraction is not inside (0, 1).
    """
    if (value is None) == (fraction is None):
        raise ValueError(f"{name} is {value} and test_fraction is {fraction}; set exactly one of the two")
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"test_fraction is {fraction}; set it between 0 and 1, for example 0.05")
