"""Judge statistics per row: requests, ties, agreement between the two games of a prompt, position bias."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focalpo.reporting.table_run import TableRun
from focalpo.stages.folder import read_manifest
from focalpo.stages.records import AlpacaVerdict, ArenaGame, read_records


@dataclass(frozen=True, slots=True)
class JudgeStatistics:
    """One row's judgements over all its seeds; shares in percent."""

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
    "calls": "calls",
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
    alpaca = [v for folder in folders for v in read_records(folder / "alpaca_eval.parquet", AlpacaVerdict)]
    games = [g for folder in folders for g in read_records(folder / "arena_hard.parquet", ArenaGame)]
    preference = np.array([verdict.preference for verdict in alpaca])
    results = _results(games)
    return JudgeStatistics(
        calls=sum(call.get("calls", 0) for call in calls),
        retried=sum(call.get("retried", 0) for call in calls),
        failed=sum(call.get("failed", 0) for call in calls),
        draws=100 * float(np.mean(np.abs(preference - 1.5) < 0.05)),
        agree=100 * float(np.mean(np.sign(results[:, 0] - 0.5) == np.sign(results[:, 1] - 0.5))),
        strong=100 * float(np.mean([game.weight == 3 for game in games])),
        # The baseline is shown first in game 1, the model in game 2.
        first_place=100 * float(np.mean(results[:, 1] - results[:, 0])),
        model_length=float(np.mean([verdict.model_length for verdict in alpaca])),
        reference_length=float(np.mean([verdict.reference_length for verdict in alpaca])),
    )


def _results(games: Sequence[ArenaGame]) -> np.ndarray:
    """The model's results, `[prompts, games]`."""
    return np.array([game.result for game in games]).reshape(-1, 2)
