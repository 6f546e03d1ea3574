"""Records exchanged between packages: small frozen dataclasses, and their files (JSON lines, parquet).

Every record fits one parquet row. A prompt is a list of chat messages `[{"role": "user", "content": "..."}]` that ends
with a user message.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from focalpo.stages.reading import check_file, first_line

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

    Of an answer without a pair (focalpo/data/unpaired.py) the other side is empty.
    `mislabelled` is known only where the gold reward is (the pocket world): True when the label contradicts it.
    """

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    mislabelled: bool | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to build a pair from, and the split (train, test) of that pair."""

    id: str
    split: str
    prompt: Messages


@dataclass(frozen=True, slots=True)
class Rated:
    """One sampled answer to a prompt, with the reward model's score."""

    id: str
    split: str
    prompt: Messages
    seed: int
    text: str
    reward: float


@dataclass(frozen=True, slots=True)
class Question:
    """One benchmark prompt with the reference answer that a model is compared with."""

    id: str
    prompt: Messages
    reference: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer; `finished` is False if it was truncated at the token limit."""

    id: str
    prompt: Messages
    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class AlpacaVerdict:
    """AlpacaEval's verdict on one prompt.

    `preference` is in [1, 2]; 2 means that the model is better than the reference, NaN that the judge gave no verdict.
    Lengths are in characters. `index` is the row of the benchmark, which selects the instruction difficulty.
    """

    id: str
    index: int
    preference: float
    reference_length: int
    model_length: int

    @property
    def judged(self) -> bool:
        return not math.isnan(self.preference)


@dataclass(frozen=True, slots=True)
class ArenaGame:
    """One of a prompt's two Arena-Hard games; `result` is the model's (0, 0.5, 1), `weight` is 3 for a `>>` verdict.

    A game without a verdict has the weight 0 and the result NaN.
    """

    id: str
    game: int
    verdict: str
    result: float
    weight: int

    @property
    def judged(self) -> bool:
        return self.weight > 0


@dataclass(frozen=True, slots=True)
class DuelGame:
    """One of the two games that two rows' answers to a prompt play against each other; `result` is the first row's.

    The result is in [0, 1], with the weight 0 and NaN where the judge gave no verdict. `leads`: the first row's answer
    was shown first. `same`: both answers are the same text, a tie that no judge was asked about. Lengths are in
    characters.
    """

    id: str
    leads: bool
    same: bool
    result: float
    weight: int
    length: int
    other_length: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge wrote about one answer; `first`: it saw this answer before the reference."""

    first: bool
    text: str


@dataclass(frozen=True, slots=True)
class Instructed:
    """A prompt with verifiable instructions: their kinds, by IFEval's names, and the arguments of each as JSON."""

    id: str
    prompt: str
    kinds: list[str]
    arguments: list[str]


@dataclass(frozen=True, slots=True)
class Followed:
    """Whether an answer follows each instruction of its prompt, strictly and loosely."""

    id: str
    strict: list[bool]
    loose: list[bool]


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What one answer earns of the most that it can: 1 of 1 for a prompt, 2 of 3 for its instructions."""

    id: str
    points: float
    most: float


@dataclass(frozen=True, slots=True)
class PairState:
    """The policy's logps of one pair after `step` optimizer steps, in nats, summed over response tokens.

    Entropies of the next token are summed likewise, in nats; CHES scores are those of Razin et al. (2024), the second
    one length-normalised; `reward_margin` is the objective's own, r_w - r_l. None where it was not recorded, as by
    older commits, or where the objective has no rewards.
    """

    step: int
    split: str
    id: str
    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int
    mislabelled: bool | None = None
    chosen_entropy: float | None = None
    rejected_entropy: float | None = None
    ches: float | None = None
    ches_per_token: float | None = None
    reward_margin: float | None = None


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write records of one class as parquet, atomically: a file that grows is read again by a resumed stage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist([asdict(record) for record in records]), partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_records(path: Path, kind: Callable[..., Record]) -> list[Record]:
    """Read records written by `write_records`; the last fields that have a default may be missing, for older files.

    Raises:
        ValueError: when the file is not whole, or its columns do not match the fields of `kind`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:  # OSError is how Arrow reports a damaged footer or page
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}); delete its stage folder and run again"
        ) from error
    columns, known = table.column_names, fields(kind)  # type: ignore[arg-type]  # a dataclass of this file
    names, added = [field.name for field in known], known[len(columns) :]
    if columns != names[: len(columns)] or any(field.default is MISSING for field in added):
        raise ValueError(f"{path} has columns {columns}, expected {names}; delete its stage folder and run again")
    return [kind(**row) for row in table.to_pylist()]


def append_json(path: Path, row: dict) -> None:
    """Append one JSON line; readers may drop a truncated last line."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_json_lines(path: Path) -> list[dict]:
    """All complete rows of a JSON-lines file; a last line truncated by a kill is dropped.

    Raises:
        ValueError: when another line is not a JSON object; the message has its number.
    """
    check_file(path)
    # Not `splitlines`: JSON strings may contain raw U+2028 and similar line separators, and published questions do.
    *complete, _ = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object; delete that line, or make the file again")
        rows.append(row)
    return rows


def listed(ids: Sequence[str]) -> str:
    """Ids as an error message shows them: the count and the first twenty."""
    shown = ", ".join(ids[:MOST_LISTED])
    return f"{len(ids)} rows ({shown}{', ...' if len(ids) > MOST_LISTED else ''})"
