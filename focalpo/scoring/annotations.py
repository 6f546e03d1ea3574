"""Scores an AlpacaEval annotation file: for judgements that others made and published.

annotations.json[.gz] --rows in the benchmark's order--> Annotations --> AnnotationScores --> leaderboard.csv

Only these keys of a row are read, in any order and among any others: instruction, output_1 (the reference's), output_2
(the model's), generator_2, generator_1 (optional), preference (focalpo/stages/preferences.py says what it means). A row
without a preference is counted and reported, never scored.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from focalpo.scoring.length_control import Gamed, fit, length_controlled, library_error
from focalpo.scoring.stats import Array, discrete_win_rate, standard_error, value, win_rate
from focalpo.stages.preferences import DRAW, check_scale, preference_of
from focalpo.stages.reading import is_encodable, read_json
from focalpo.stages.records import listed

PAIR = ("instruction", "output_1", "output_2")


@dataclass(frozen=True, slots=True)
class Annotations:
    """One model's judged rows, [rows]: index in the benchmark, preference (NaN: missing), lengths in characters.

    `in_order`: the index is a row's position in the file, which it is in the benchmark only if the file has all rows.
    """

    model: str
    reference: str
    in_order: bool
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
    """A model's scores as on the library's leaderboard, in percent; wins, losses and draws are counts of rows.

    `length_controlled` and its error are None without gamed rows. `average_length` is in characters, of all answers.
    """

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    wins: int
    losses: int
    draws: int
    judged: int
    average_length: float
    length_controlled: float | None
    length_controlled_error: float | None


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
    preference = np.array(preferences(path, rows))[np.argsort(place)]
    rows, place = [rows[i] for i in np.argsort(place)], np.sort(place)
    lengths = (np.array([len(row[side]) for row in rows], dtype=float) for side in ("output_1", "output_2"))
    return Annotations(models[0], references[0], instructions is None, place, preference, *lengths)


def score(found: Annotations, gamed: Gamed | None) -> AnnotationScores:
    """Score the judged rows; for a model that is its own reference, LC is 50 by construction.

    Raises:
        ValueError: if no row was judged, or the rows are not those of the gamed rows' benchmark.
    """
    judged = found.preference[~np.isnan(found.preference)]
    if not len(judged):
        raise ValueError(f"{found.model} has no judged row; judge its answers first")
    controlled: tuple[float, float] | None = None
    if found.model == found.reference:
        controlled = 50.0, 0.0
    elif gamed is not None:
        rows, prompts = len(found.place), len(gamed.prompt_difficulty)
        if found.place[-1] >= prompts or (found.in_order and rows != prompts):
            raise ValueError(
                f"{found.model} has {rows} rows, the gamed rows have {prompts} prompts; use the df_gamed.csv of the "
                "same benchmark, and pass --questions where rows are missing"
            )
        mine = replace(gamed, prompt_difficulty=gamed.prompt_difficulty[found.place])
        fitted = fit(found.preference, found.reference_length, found.model_length, mine)
        controlled = length_controlled(fitted, mine), library_error(fitted, mine)
    sign = np.sign(judged - DRAW)
    return AnnotationScores(
        win_rate=value(win_rate(judged[None])),
        standard_error=standard_error(judged),
        discrete_win_rate=discrete_win_rate(judged),
        wins=int((sign > 0).sum()),
        losses=int((sign < 0).sum()),
        draws=int((sign == 0).sum()),
        judged=len(judged),
        average_length=float(found.model_length.mean()),
        length_controlled=controlled and controlled[0],
        length_controlled_error=controlled and controlled[1],
    )


def as_leaderboard(model: str, scores: AnnotationScores) -> str:
    """A model's row of alpaca_eval's leaderboard as CSV, at full precision; `mode` is that of a new entry."""
    lc, lc_error = scores.length_controlled, scores.length_controlled_error
    row = {
        "": model,
        "win_rate": scores.win_rate,
        "standard_error": scores.standard_error,
        "n_wins": scores.wins,
        "n_wins_base": scores.losses,
        "n_draws": scores.draws,
        "n_total": scores.judged,
        "discrete_win_rate": scores.discrete_win_rate,
        "mode": "community",
        "avg_length": int(scores.average_length),
        "length_controlled_winrate": "" if lc is None else lc,
        "lc_standard_error": "" if lc_error is None else lc_error,
    }
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([row.keys(), row.values()])
    return out.getvalue()


def annotation_rows(path: Path, texts: Sequence[str]) -> list[dict]:
    """Read the rows of an annotation file, gzipped or not; each row must hold the keys `texts` as strings.

    Raises:
        ValueError: if it is not an annotation file, or rows lack a text that can be encoded (the error names them).
    """
    rows = read_json(path, "pass an alpaca_eval annotations file")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold a list of annotations; pass an alpaca_eval annotations file")
    for key in texts:
        broken = [str(i) for i, row in enumerate(rows) if not isinstance(row.get(key), str)]
        if broken:
            raise ValueError(f"{path}: {listed(broken)} have no {key}; annotate them again")
        unread = [str(i) for i, row in enumerate(rows) if not is_encodable(row[key])]
        if unread:
            raise ValueError(
                f"{path}: {key} of {listed(unread)} cannot be encoded (lone surrogate or NUL); fix the text"
            )
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


def preferences(path: Path, rows: Sequence[dict]) -> list[float]:
    """The rows' preferences, from 1 (the reference wins) to 2 (the model wins), 1.5 for a draw; NaN if never judged.

    Raises:
        ValueError: if some are no preferences (the error names the rows), or all are on the scale 0 .. 1.
    """
    found: list[float] = []
    problems: dict[str, str] = {}
    for number, row in enumerate(rows):
        try:
            found.append(preference_of(row.get("preference")))
        except ValueError as problem:
            problems[str(number)] = str(problem)
    check_scale((row.get("preference") for row in rows), str(path))
    if problems:
        first = next(iter(problems.values()))
        raise ValueError(
            f"{path}: {listed(list(problems))} have no preference from 1 to 2 (the first: {first}); annotate them again"
        )
    return found


def read_instructions(path: Path) -> list[str]:
    """The instructions of a benchmark file, in its order.

    Raises:
        ValueError: if it is not a list of questions with an instruction each.
    """
    return [row["instruction"] for row in annotation_rows(path, ("instruction",))]
