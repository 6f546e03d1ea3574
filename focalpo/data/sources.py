"""Sources of pairs: a file or a pinned hub dataset in, checked train and test pairs out (`load`).

Pitfall of the paper's data: trl-lib/ultrafeedback_binarized (62.1k train + 1k test) has as many pairs as the preference
splits of HuggingFaceH4/ultrafeedback_binarized (61.1k + 2k), so it looks like the same pairs split differently; its
train split then contains half of H4's test_prefs. Take the test pairs from the dataset of the train pairs: `validate`
detects an overlap only between the two splits of one run. The prompts of the test split of
princeton-nlp/llama3-ultrafeedback-armorm are reported to be those of test_prefs too (SimPO issue 74).
"""

import gzip
import hashlib
import json
import random
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from focalpo.data.schemas import Split, convert, prompt_key
from focalpo.data.validate import Checked, validate
from focalpo.stages.records import Messages

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
# Fixed, so that `limit` selects the same pairs in every run, whatever the seed of the run.
LIMIT_SEED = 0
Item = TypeVar("Item")


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


def load(source: FileSource | HubSource, on_bad_rows: Literal["error", "drop"], limit: int | None = None) -> Checked:
    """Read, convert, split and check; `limit` keeps at most that many valid pairs of train and of test (see `sample`).

    Raises:
        ValueError: when the source cannot be read, its columns match no schema, or rows are bad (see `validate`).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; set it to at least 1, or to null for all pairs")
    checked = validate(*read_splits(source), on_bad_rows)
    if limit is None:
        return checked
    return replace(checked, train=sample(checked.train, limit), test=sample(checked.test, limit))


def read_splits(source: FileSource | HubSource) -> tuple[Split, Split]:
    """Train and test as the source provides them, or its single split divided by prompt."""
    tables = source.tables()
    if source.test_fraction is not None:
        [(name, rows)] = tables
        # "row", not "train": the id of a pair must not suggest one of the two splits.
        return hold_out(convert(rows, name, "row"), source.test_fraction)
    (train_name, train_rows), (test_name, test_rows) = tables
    return convert(train_rows, train_name, "train"), convert(test_rows, test_name, "test")


def hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Divide a split into train and test so that no prompt is in both: the text of a prompt alone decides its side.

    Rows that could not be converted stay with train.

    Raises:
        ValueError: when one side is empty.
    """
    test = {row: pair for row, pair in split.pairs.items() if prompt_position(pair.prompt) < fraction}
    train = {row: pair for row, pair in split.pairs.items() if row not in test}
    if split.pairs and not (train and test):
        empty = "train" if test else "test"
        raise ValueError(f"test_fraction={fraction} leaves {empty} empty in {split.source}; choose another fraction")
    return replace(split, pairs=train), replace(split, pairs=test, bad={})


def prompt_position(prompt: Messages) -> float:
    """A fixed, uniformly distributed position in [0, 1) for a prompt: the first 64 bits of its SHA-256."""
    digest = hashlib.sha256(json.dumps(prompt_key(prompt)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample(items: list[Item], limit: int) -> list[Item]:
    """The first `limit` items of a fixed shuffle: the sample of a smaller limit is a prefix of that of a larger one."""
    shuffled = list(items)
    random.Random(LIMIT_SEED).shuffle(shuffled)
    return shuffled[:limit]


def read_rows(path: Path) -> list[dict]:
    """All rows of a .jsonl, .json (one list) or .parquet file; the JSON ones may be gzipped.

    Raises:
        ValueError: when the file is missing, empty or truncated, its suffix is unknown, or its format is another.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; check the path (relative ones start at {Path.cwd()})")
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path} has an unknown suffix; convert it to one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        rows = parquet_rows(path)
    elif path.name.removesuffix(".gz").endswith(".jsonl"):
        rows = json_lines(path)
    else:
        rows = json_list(path)
    if not rows:
        raise ValueError(f"{path} has no rows; download or write it again")
    return rows


def parquet_rows(path: Path) -> list[dict]:
    """The rows of a parquet file.

    Raises:
        ValueError: when it is not a complete parquet file.
    """
    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:  # OSError is how Arrow reports a damaged footer or page
        raise ValueError(f"{path} is not a complete parquet file ({first_line(error)}); download it again") from error


def json_lines(path: Path) -> list[dict]:
    """The rows of a JSON-lines file, one object per line.

    Raises:
        ValueError: when a line is not a JSON object; the message has the line number.
    """
    rows = []
    # Not `splitlines`: it also breaks at U+2028 and similar separators, which a JSON string may contain raw.
    for number, line in enumerate(read_text(path).rstrip().split("\n"), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error.msg}); fix or delete that line") from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ValueError(f"{path} line {number} is not a JSON object but {kind}; write one row per line")
        rows.append(row)
    return rows


def json_list(path: Path) -> list[dict]:
    """The rows of a JSON file that is one list of objects.

    Raises:
        ValueError: when it is anything else; if it is not JSON, the message has the line number.
    """
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        remedy = "fix it, or name it .jsonl if each line is a row"
        raise ValueError(f"{path} line {error.lineno} is not JSON ({error.msg}); {remedy}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is not a list of objects; write it as [{{...}}, {{...}}]")
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gunzipped if its suffix is .gz, without a byte order mark.

    Raises:
        ValueError: when it is empty, not UTF-8, or a damaged archive.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            content = file.read()
    except EOFError as error:
        raise ValueError(f"{path} is a truncated gzip file; download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); download it again, or drop .gz") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; convert it to UTF-8") from error
    if not content.strip():
        raise ValueError(f"{path} is empty; download or write it again")
    return content


def hub_rows(dataset: str, revision: str, split: str) -> list[dict]:
    """All rows of one split of a hub dataset at a commit or tag; for a local folder the revision is not checked.

    Raises:
        ValueError: when no revision is pinned, or the dataset, revision or split cannot be loaded.
    """
    if not revision or revision in ("main", "master") or revision.startswith("refs/"):
        raise ValueError(f"{dataset}: revision {revision!r} is not pinned; set a commit (40 hex digits) or a tag")
    # Imported here: `datasets` takes a second to import, and files do not need it.
    import datasets
    from huggingface_hub.errors import HTTPError  # alias of the HTTP library's error: httpx, or httpx2 from 2.4

    where = f"{dataset}@{revision[:12]} split {split}"
    try:
        builder = datasets.load_dataset_builder(dataset, revision=revision)
        check_revision(builder, dataset, revision)
        builder.download_and_prepare()
        return builder.as_dataset(split=split).to_list()
    except (ConnectionError, HTTPError) as error:
        remedy = "run once where the hub is reachable (network, `hf auth login`), or set the path of a file instead"
        raise ValueError(f"{where}: {first_line(error)}; {remedy}") from error
    except FileNotFoundError as error:  # the base class of errors for missing, private and gated datasets and revisions
        remedy = "check network, name and revision; if it is gated or private, accept its terms and run `hf auth login`"
        raise ValueError(f"{where}: {first_line(error)}; {remedy}") from error
    except (datasets.exceptions.DatasetsError, pa.ArrowInvalid) as error:
        raise ValueError(f"{where}: {first_line(error)}; a file is corrupt, delete it and run again") from error
    except ValueError as error:
        raise ValueError(f"{where}: {first_line(error)}") from error


def check_revision(builder: object, dataset: str, revision: str) -> None:
    """Reject any revision other than the pinned one.

    Without a network, `datasets` falls back to the revision that was cached last and only logs a line.

    Raises:
        ValueError: when the cache was used instead of the hub and holds another revision, or the pin is a tag, which
            the cache cannot confirm.
    """
    from datasets.packaged_modules.cache.cache import Cache

    if isinstance(builder, Cache) and builder.hash != revision:
        raise ValueError(
            f"the hub did not answer and the cache holds {dataset} at {builder.hash}; "
            "run once where the hub is reachable, or pin that commit if it is the one you need"
        )


def check_test_choice(name: str, value: object, fraction: float | None) -> None:
    """Check that a source defines its test pairs in exactly one way.

    Raises:
        ValueError: when it defines them in no way or in two, or the fraction is not inside (0, 1).
    """
    if (value is None) == (fraction is None):
        raise ValueError(f"{name} is {value} and test_fraction is {fraction}; set exactly one of the two")
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"test_fraction is {fraction}; set it between 0 and 1, for example 0.05")


def first_line(error: Exception) -> str:
    """The first line of an error message without its final period, because a remedy follows on the same line."""
    return str(error).partition("\n")[0].rstrip(".")
