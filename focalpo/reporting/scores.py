"""Scores of one row of the table by column, from the records of its sealed stages: metrics to draw intervals from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from focalpo.scoring.length_control import Gamed, LengthControlled, fit, length_controlled, library_error, read_gamed
from focalpo.scoring.levels import level_points
from focalpo.scoring.stats import (
    STRONG,
    Array,
    Metric,
    Ratio,
    Remembered,
    arena_score,
    battle_error,
    mean_error,
    standard_error,
    value,
    win_rate,
)
from focalpo.stages.folder import Folder
from focalpo.stages.metrics import LEVELS, column_of
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Followed, PromptScore, read_records

LOST, WON = 1.0, 2.0
"""AlpacaEval's preferences at the ends of the scale."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model, a row at one seed: its sealed folders by kind of stage, and the facts reported beside its scores."""

    seed: str
    folders: Mapping[str, Path]
    facts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Score:
    """A column's metric over a row's runs, and the error that the benchmark's own code would print, if it has one.

    `missing` verdicts are left out; `worst` is the score if the model had lost them all, and if it had won them all.
    """

    seeds: tuple[str, ...]
    metric: Metric
    library_se: float
    missing: int = 0
    worst: tuple[float, float] | None = None


def row_scores(runs: Sequence[Run], gamed: Path | None) -> dict[str, Score]:
    """The scores of a row by column, of every file that all its runs have; `gamed` is AlpacaEval's df_gamed.csv."""
    seeds = tuple(run.seed for run in runs)
    found = {}
    if files := _files(runs, "judge", "alpaca_eval"):
        assert gamed is not None, "a row is judged on a benchmark of its table"
        found |= _alpaca(files, seeds, gamed)
    if files := _files(runs, "judge", "arena_hard"):
        found |= _arena(files, seeds)
    for name in scored_sets(runs, "check"):
        answers = [read_records(file, Followed) for file in _files(runs, "check", name)]
        for level in LEVELS:
            found[f"{name}_{level}"] = prompt_score([level_points(each, level) for each in answers], seeds)
    for name in scored_sets(runs, "capability"):
        found[name] = prompt_score(
            [read_records(file, PromptScore) for file in _files(runs, "capability", name)], seeds
        )
    return found


def in_words(folder: Folder) -> str:
    """The scores of one sealed stage, for its line of progress; empty where it scores nothing."""
    kind, gamed = folder.path.parent.name, folder.job.inputs.get("alpaca_eval")
    found = row_scores([Run("", {kind: folder.path}, {})], gamed and gamed / "df_gamed.csv")
    return ", ".join(f"{column_of(name).title} {value(score.metric):.1f}" for name, score in found.items())


def prompt_score(runs: Sequence[Sequence[PromptScore]], seeds: tuple[str, ...]) -> Score:
    """The score of prompts that earn points, one list per run: points over the most, in percent.

    Its own library's error is that of a mean over prompts; it has none where prompts can earn different amounts.
    """
    ids = [[each.id for each in run] for run in runs]
    assert all(each == ids[0] for each in ids), "the runs of a row answer the same prompts"
    points, most = (_array(runs, name) for name in ("points", "most"))
    alike = bool((most == most[0, 0]).all())
    error = float(np.mean([mean_error(run) for run in points / most])) if alike else float("nan")
    return Score(seeds, Remembered(Ratio(points, most)), error)


def scored_sets(runs: Sequence[Run], kind: str) -> list[str]:
    """The sets of completions, or tasks, that a kind of stage scored in all runs, by name."""
    folders = [run.folders[kind] for run in runs if kind in run.folders]
    if len(folders) < len(runs):
        return []
    names = [sorted(path.stem for path in folder.glob("*.parquet")) for folder in folders]
    return [name for name in names[0] if all(name in each for each in names)]


def _files(runs: Sequence[Run], kind: str, name: str) -> list[Path]:
    """The file of each run; none unless all runs have it."""
    files = [run.folders[kind] / f"{name}.parquet" for run in runs if kind in run.folders]
    return files if len(files) == len(runs) and all(file.is_file() for file in files) else []


def _alpaca(files: Sequence[Path], seeds: tuple[str, ...], gamed: Path) -> dict[str, Score]:
    verdicts = [read_records(file, AlpacaVerdict) for file in files]
    preference = _array(verdicts, "preference")
    lengths = _array(verdicts, "reference_length"), _array(verdicts, "model_length")
    benchmark = read_gamed(gamed)
    controlled = LengthControlled(preference, *lengths, benchmark)
    controlled_error = float(np.mean([library_error(found, benchmark) for found in controlled.fits]))
    error = float(np.mean([standard_error(run) for run in preference]))
    found = {
        "ae2_lc": Score(seeds, Remembered(controlled), controlled_error),
        "ae2_wr": Score(seeds, Remembered(win_rate(preference)), error),
    }
    gone = np.isnan(preference)
    if not gone.any():
        return found
    lost, won = (np.where(gone, most, preference) for most in (LOST, WON))
    worst = {
        "ae2_lc": (_controlled(lost, lengths, benchmark), _controlled(won, lengths, benchmark)),
        "ae2_wr": (value(win_rate(lost)), value(win_rate(won))),
    }
    return {name: replace(each, missing=int(gone.sum()), worst=worst[name]) for name, each in found.items()}


def _controlled(preference: Array, lengths: tuple[Array, Array], benchmark: Gamed) -> float:
    """Length-controlled win rate, mean over runs."""
    runs = zip(preference, *lengths, strict=True)
    return float(np.mean([length_controlled(fit(*run, benchmark), benchmark) for run in runs]))


def _arena(files: Sequence[Path], seeds: tuple[str, ...]) -> dict[str, Score]:
    """The score of all games or, where prompts have categories, a score per category."""
    games = [read_records(file, ArenaGame) for file in files]
    categories = dict.fromkeys(game.id.rpartition("/")[0] for game in games[0])
    return {
        name or "arena_hard": _battles([[g for g in run if g.id.rpartition("/")[0] == name] for run in games], seeds)
        for name in categories
    }


def _battles(games: Sequence[Sequence[ArenaGame]], seeds: tuple[str, ...]) -> Score:
    results, weights = (_array(games, name).reshape(len(games), -1, 2) for name in ("result", "weight"))
    error = float(np.mean(list(map(battle_error, results, weights))))
    found = Score(seeds, Remembered(arena_score(results, weights)), error)
    gone = weights == 0
    if not gone.any():
        return found
    counted = np.where(gone, STRONG, weights)
    lost, won = (value(arena_score(np.where(gone, result, results), counted)) for result in (0.0, 1.0))
    return replace(found, missing=int(gone.sum()), worst=(lost, won))


def _array(runs: Sequence[Sequence[object]], name: str) -> np.ndarray:
    return np.array([[getattr(record, name) for record in records] for records in runs], dtype=float)
