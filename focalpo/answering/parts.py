"""Answers of finished batches, so that a stage that is killed goes on after the last of them.

.checkpoints/<set>-000012.parquet       the answers of batch 12, as token ids; gone when the stage is sealed
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focalpo.answering.engine import Tokens
from focalpo.stages.folder import CHECKPOINTS
from focalpo.stages.records import read_records, write_records


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer: the number of its prompt, its seed and its token ids with the stop token."""

    prompt: int
    seed: int
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one set of prompts in a stage's folder."""

    stage: Path
    name: str

    def read(self, number: int, batch: Sequence[int], seeds: Sequence[int]) -> list[list[Tokens]] | None:
        """The answers of a batch, per prompt and seed; None when they are not there, damaged or of other prompts."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            rows = read_records(path, Drawn)
        except ValueError:
            print(f"{path} is damaged; its answers are made again", file=sys.stderr)
            return None
        if [(row.prompt, row.seed) for row in rows] != [(prompt, seed) for prompt in batch for seed in seeds]:
            return None
        return [[row.tokens for row in rows[at : at + len(seeds)]] for at in range(0, len(rows), len(seeds))]

    def write(self, number: int, batch: Sequence[int], seeds: Sequence[int], answers: list[list[Tokens]]) -> None:
        """Write the answers of a batch."""
        path = self._path(number)
        path.parent.mkdir(exist_ok=True)
        write_records(
            path,
            [
                Drawn(prompt, seed, tokens)
                for prompt, group in zip(batch, answers, strict=True)
                for seed, tokens in zip(seeds, group, strict=True)
            ],
        )

    def _path(self, number: int) -> Path:
        return self.stage / CHECKPOINTS / f"{self.name}-{number:06d}.parquet"
