"""Scores an AlpacaEval annotation file: for judgements that others made and published.

annotations.json[.gz] --rows in the benchmark's order--> Annotations --> AnnotationScores

Only these keys of a row are read, in any order and among any others: instruction, output_1 (the reference's), output_2
(the model's), generator_2, generator_1 (optional), preference. A row without a preference is counted and reported,
never scored.
"""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from focalpo.scoring.length_control import Gamed, fit, length_controlled
from focalpo.scoring.stats import Array, discrete_win_rate, standard_error, value, win_rate
from focalpo.stages.records import listed

GZIP = b"\x1f\x8b"
PAIR = ("instruction", "output_1", "output_2")


@dataclass(frozen=True, slots=True)
class Annotations:
    """One model's judged rows, [rows]: index in the benchmark, preference (NaN: missing), lengths in characters."""

    model: str
    reference: str
    place: np.ndarray
    preference: Array
    reference_length: Array
    model_length: Array

    @property
    def missing(self) -> list[int]:
        """Benchmark indices of the rows without a preference."""
        return [int(place) for place in self.place[np.isnan(self.preference)]]


@dataclass(frozen=True, slots=True)
class AnnotationScores:
    """A model's scores as on the library's leaderboard, in percent; `length_controlled` is None without gamed rows."""

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    length_controlled: float | None
    judged: int


def read_annotations(path: Path, instructions: Sequence[str] | None = None) -> Annotations:
    """Read one model's annotation file.

    Args:
        instructions: the benchmark's, in its order; with them, rows may come in any order or be absent. Without them,
            the rows must be the whole benchmark's, in its order.

    Raises:
        ValueError: if the file is not a list of annotations of one model, or a row is not in the benchmark.
    """
    rows = annotation_rows(path, (*PAIR, "generator_2"))
    models = sorted({str(row["generator_2"]) for row in rows})
    references = sorted({str(row.get("generator_1")) for row in rows})
    if len(models) != 1 or len(references) != 1:
        raise ValueError(f"{path} compares {models} with {references}; use one file per model and reference")
    place = np.arange(len(rows)) if instructions is None else _places(path, rows, instructions)
    rows, place = [rows[i] for i in np.argsort(place)], np.sort(place)
    preference = np.array([preference_of(path, row) for row in rows])
    lengths = (np.array([len(row[side]) for row in rows], dtype=float) for side in ("output_1", "output_2"))
    return Annotations(models[0], references[0], place, preference, *lengths)


def score(found: Annotations, gamed: Gamed | None) -> AnnotationScores:
    """Score the judged rows; for a model that is its own reference, LC is 50 by construction.

    Raises:
        ValueError: if no row was judged, or the rows are not those of the gamed rows' benchmark.
    """
    judged = found.preference[~np.isnan(found.preference)]
    if not len(judged):
        raise ValueError(f"{found.model} has no judged row; judge its answers first")
    lc = None
    if found.model == found.reference:
        lc = 50.0
    elif gamed is not None:
        if found.place[-1] >= len(gamed.prompt_difficulty):
            raise ValueError(
                f"{found.model} has {len(found.place)} rows, the gamed rows have {len(gamed.prompt_difficulty)} "
                "prompts; use the df_gamed.csv of the same benchmark"
            )
        mine = replace(gamed, prompt_difficulty=gamed.prompt_difficulty[found.place])
        lc = length_controlled(fit(found.preference, found.reference_length, found.model_length, mine), mine)
    wr = value(win_rate(judged[None]))
    return AnnotationScores(wr, standard_error(judged), discrete_win_rate(judged), lc, len(judged))


def annotation_rows(path: Path, texts: Sequence[str]) -> list[dict]:
    """Read the rows of an annotation file, gzipped or not; each row must hold the keys `texts` as strings.

    Raises:
        ValueError: if it is not an annotation file, or rows lack a text (the error names them).
    """
    try:
        content = path.read_bytes()
        rows = json.loads(gzip.decompress(content) if content.startswith(GZIP) else content)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); pass an alpaca_eval annotations file") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold a list of annotations; pass an alpaca_eval annotations file")
    for key in texts:
        broken = [str(i) for i, row in enumerate(rows) if not isinstance(row.get(key), str)]
        if broken:
            raise ValueError(f"{path}: {listed(broken)} have no {key}; annotate them again")
    return rows


def _places(path: Path, rows: Sequence[dict], instructions: Sequence[str]) -> np.ndarray:
    """The benchmark index of every annotation; a repeated instruction is matched in file order."""
    where: dict[str, list[int]] = {}
    for place, instruction in enumerate(instructions):
        where.setdefault(instruction, []).append(place)
    times = Counter(row["instruction"] for row in rows)
    unmatched = [str(i) for i, r in enumerate(rows) if times[r["instruction"]] > len(where.get(r["instruction"], ()))]
    if unmatched:
        raise ValueError(
            f"{path}: {listed(unmatched)} are not the benchmark's or occur twice; keep one annotation per instruction"
        )
    return np.array([where[row["instruction"]].pop(0) for row in rows])


def preference_of(path: Path, row: dict) -> float:
    """The row's preference, from 1 (reference wins) to 2 (model wins), 0 for a tie; NaN if it was never judged.

    Raises:
        ValueError: if it is not a preference.
    """
    raw = row.get("preference")
    value = float("nan") if raw in (None, "") else float(raw)
    if np.isnan(value) or value == 0 or 1 <= value <= 2:
        return value
    raise ValueError(f"{path}: preference {raw} of {row['instruction'][:40]!r} is not in [1, 2]; annotate it again")
