"""Judge statistics per row: requests, ties, agreement between the two games of a prompt, position bias."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focalpo.reporting.table_run import TableRun
from focalpo.scoring.stats import STRONG, UNSURE
from focalpo.stages.folder import read_manifest
from focalpo.stages.preferences import DRAW
from focalpo.stages.records import AlpacaVerdict, ArenaGame, read_records


@dataclass(frozen=True, slots=True)
class JudgeStatistics:
    """One row's judgements over all its seeds; shares in percent. A resumed stage has the calls of its last start."""

    calls: int
    retried: int
    failed: int
    draws: float
    """AlpacaEval preferences between 1.45 and 1.55: the judge had no clear preference."""
    agree: float
    """Arena-Hard prompts whose two games, with the answers swapped, have the same winner or are both ties."""
    strong: float
    """Arena-Hard games decided by `>>`, which count three times."""
    first_place: float
    """Points that the model gains in the game that shows it first over the game that shows it second."""
    model_length: float
    reference_length: float
    """Mean characters of the model's and of the reference's answer."""


TITLES = {
    "calls": "calls of the last start",
    "retried": "retried",
    "failed": "failed",
    "draws": "AlpacaEval ties %",
    "agree": "Arena games agree %",
    "strong": "Arena strong verdicts %",
    "first_place": "Arena first-place gain",
    "model_length": "answer, characters",
    "reference_length": "reference, characters",
}


def judge_statistics(run: TableRun, setting: str, row: str) -> JudgeStatistics | None:
    """Compute the statistics of a row; None when it was not judged."""
    folders = list(run.seeds(setting, row, "judge").values())
    if not folders:
        return None
    calls = [read_manifest(folder)["facts"].get("calls", {}) for folder in folders]
    alpaca = [v for file in _files(folders, "alpaca_eval") for v in read_records(file, AlpacaVerdict) if v.judged]
    games = [g for file in _files(folders, "arena_hard") for g in read_records(file, ArenaGame)]
    preference = np.array([verdict.preference for verdict in alpaca])
    results = _results(games)
    return JudgeStatistics(
        calls=sum(call.get("calls", 0) for call in calls),
        retried=sum(call.get("retried", 0) for call in calls),
        failed=sum(call.get("failed", 0) for call in calls),
        draws=100 * _mean(np.abs(preference - DRAW) < UNSURE),
        agree=100 * _mean(np.sign(results[:, 0] - 0.5) == np.sign(results[:, 1] - 0.5)),
        strong=100 * _mean([game.weight == STRONG for game in games if game.judged]),
        # The baseline is shown first in game 1, the model in game 2.
        first_place=100 * _mean(results[:, 1] - results[:, 0]),
        model_length=_mean([verdict.model_length for verdict in alpaca]),
        reference_length=_mean([verdict.reference_length for verdict in alpaca]),
    )


def _files(folders: Sequence[Path], name: str) -> list[Path]:
    return [file for folder in folders if (file := folder / f"{name}.parquet").is_file()]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean; not a number for a benchmark that was not judged."""
    return float(np.mean(values)) if len(values) else float("nan")


def _results(games: Sequence[ArenaGame]) -> np.ndarray:
    """The model's results, `[prompts, games]`, of the prompts of which both games have a verdict."""
    results = np.array([game.result for game in games]).reshape(-1, 2)
    return results[~np.isnan(results).any(1)]
