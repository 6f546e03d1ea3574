"""An AlpacaEval annotation file in, its scores out: for judgements that others made and published.

annotations.json[.gz] --rows in the benchmark's order--> Annotations --> AnnotationScores

Only five keys of a row are read, whatever else it holds and in whatever order: instruction, output_1 (the reference's),
output_2 (the model's), generator_2, preference. A row without a preference is counted and named, never scored.
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
    """One model's judged rows: place in the benchmark, preference (NaN: missing), lengths in characters, [rows]."""

    model: str
    reference: str
    place: np.ndarray
    preference: Array
    reference_length: Array
    model_length: Array

    @property
    def missing(self) -> list[int]:
        """Places of the rows without a preference."""
        return [int(place) for place in self.place[np.isnan(self.preference)]]


@dataclass(frozen=True, slots=True)
class AnnotationScores:
    """What the library's leaderboard says of a model, in percent; `length_controlled` None without the gamed rows."""

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    length_controlled: float | None
    judged: int


def read_annotations(path: Path, instructions: Sequence[str] | None = None) -> Annotations:
    """Read one model's annotation file.

    `instructions` are the benchmark's, in its order: with them rows may come in any order or be absent. Without them
    the rows must be the whole benchmark's, in its order.

    Raises:
        ValueError: when the file is no list of annotations of one model, or a row is no benchmark row.
    """
    rows = annotation_rows(path, (*PAIR, "generator_2"))
    models = sorted({str(row["generator_2"]) for row in rows})
    references = sorted({str(row.get("generator_1")) for row in rows})
    if len(models) != 1 or len(references) != 1:
        raise ValueError(f"{path} compares {models} with {references}; give each model and reference its own file")
    place = np.arange(len(rows)) if instructions is None else _places(path, rows, instructions)
    rows, place = [rows[i] for i in np.argsort(place)], np.sort(place)
    preference = np.array([preference_of(path, row) for row in rows])
    lengths = (np.array([len(row[side]) for row in rows], dtype=float) for side in ("output_1", "output_2"))
    return Annotations(models[0], references[0], place, preference, *lengths)


def score(found: Annotations, gamed: Gamed | None) -> AnnotationScores:
    """The scores of the rows that were judged; of the model that is its own reference, LC is 50 by construction.

    Raises:
        ValueError: when no row was judged, or rows are absent whose places in the benchmark are not known.
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
                f"{found.model} has {len(found.place)} rows, the gamed rows are of {len(gamed.prompt_difficulty)}; "
                "take the df_gamed.csv of the same benchmark"
            )
        mine = replace(gamed, prompt_difficulty=gamed.prompt_difficulty[found.place])
        lc = length_controlled(fit(found.preference, found.reference_length, found.model_length, mine), mine)
    wr = value(win_rate(judged[None]))
    return AnnotationScores(wr, standard_error(judged), discrete_win_rate(judged), lc, len(judged))


def annotation_rows(path: Path, texts: Sequence[str]) -> list[dict]:
    """The rows of an annotation file, gzipped or not, each with these keys as texts.

    Raises:
        ValueError: when it is no such file; rows that lack a text are named.
    """
    try:
        content = path.read_bytes()
        rows = json.loads(gzip.decompress(content) if content.startswith(GZIP) else content)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); give an alpaca_eval annotations file") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold a list of annotations; give an alpaca_eval annotations file")
    for key in texts:
        broken = [str(i) for i, row in enumerate(rows) if not isinstance(row.get(key), str)]
        if broken:
            raise ValueError(f"{path}: {listed(broken)} have no {key}; annotate them again")
    return rows


def _places(path: Path, rows: Sequence[dict], instructions: Sequence[str]) -> np.ndarray:
    """The benchmark's row of every annotation; an instruction that is asked twice is taken in the order of the file."""
    where: dict[str, list[int]] = {}
    for place, instruction in enumerate(instructions):
        where.setdefault(instruction, []).append(place)
    asked = Counter(row["instruction"] for row in rows)
    strays = [str(i) for i, r in enumerate(rows) if asked[r["instruction"]] > len(where.get(r["instruction"], ()))]
    if strays:
        raise ValueError(
            f"{path}: {listed(strays)} are not the benchmark's or there twice; take one annotation of each"
        )
    return np.array([where[row["instruction"]].pop(0) for row in rows])


def preference_of(path: Path, row: dict) -> float:
    """The row's preference, 1 for the reference to 2 for the model, 0 a draw; NaN when it was never judged.

    Raises:
        ValueError: when it is no preference.
    """
    found = row.get("preference")
    value = float("nan") if found in (None, "") else float(found)
    if np.isnan(value) or value == 0 or 1 <= value <= 2:
        return value
    raise ValueError(f"{path}: preference {found} of {row['instruction'][:40]!r} is not in [1, 2]; annotate it again")
