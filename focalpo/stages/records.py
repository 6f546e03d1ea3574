"""What crosses a wall between rooms: small frozen records, and their files (JSON lines, parquet).

Every record is flat enough for one parquet row; a prompt is a list of chat messages
`[{"role": "user", "content": "..."}]` whose last message is the user's.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

Record = TypeVar("Record")
Messages = list[dict[str, str]]
MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One supervised example: a prompt and the answer to imitate."""

    id: str
    prompt: Messages
    answer: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference: `chosen` was preferred to `rejected` as the answer to `prompt`.

    `mislabelled` is known only where the truth is (the pocket world): True when the label contradicts the gold reward.
    """

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    mislabelled: bool | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to make a pair for, and the split (train, test) that the pair will belong to."""

    id: str
    split: str
    prompt: Messages


@dataclass(frozen=True, slots=True)
class Rated:
    """One sampled answer to a prompt and the reward model's score of it."""

    id: str
    split: str
    prompt: Messages
    seed: int
    text: str
    reward: float


@dataclass(frozen=True, slots=True)
class Question:
    """One benchmark prompt with the reference answer a model is compared with."""

    id: str
    prompt: Messages
    reference: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer; `finished` is False when it was cut at the token limit."""

    id: str
    prompt: Messages
    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class AlpacaVerdict:
    """AlpacaEval's verdict on one prompt.

    `preference` is in [1, 2], 2 when the model is better than the reference; lengths are in characters; `index` is the
    row of the benchmark, by which the instruction difficulty is looked up.
    """

    id: str
    index: int
    preference: float
    reference_length: int
    model_length: int


@dataclass(frozen=True, slots=True)
class ArenaGame:
    """One of a prompt's two Arena-Hard games: `result` is the model's (0, 0.5, 1), `weight` 3 for a `>>` verdict."""

    id: str
    game: int
    verdict: str
    result: float
    weight: int


@dataclass(frozen=True, slots=True)
class PairState:
    """The policy's log-probs of one pair after `step` optimizer steps: summed over response tokens, nats."""

    step: int
    split: str
    id: str
    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int
    mislabelled: bool | None = None


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write records of one class as parquet."""
    pq.write_table(pa.Table.from_pylist([asdict(record) for record in records]), path)


def read_records(path: Path, kind: Callable[..., Record]) -> list[Record]:
    """Read back what `write_records` wrote.

    Raises:
        ValueError: when the file's columns are not the fields of `kind`.
    """
    table = pq.read_table(path)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass of this file
    if table.column_names != names:
        raise ValueError(f"{path} has columns {table.column_names}, expected {names}; delete its stage and run again")
    return [kind(**row) for row in table.to_pylist()]


def append_json(path: Path, row: dict) -> None:
    """Append one JSON line; a reader that meets a torn last line may drop it."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_json_lines(path: Path) -> list[dict]:
    """All complete lines of a JSON-lines file; the torn last line that a kill leaves behind is dropped."""
    # Not `splitlines`: JSON may hold U+2028 and its like as they are, and published questions do.
    *complete, _ = path.read_text().split("\n")
    return [json.loads(line) for line in complete]


def listed(ids: Sequence[str]) -> str:
    """Ids as an error message shows them: how many, and the first twenty."""
    shown = ", ".join(ids[:MOST_LISTED])
    return f"{len(ids)} rows ({shown}{', ...' if len(ids) > MOST_LISTED else ''})"
