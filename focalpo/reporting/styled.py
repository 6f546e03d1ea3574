"""Arena-Hard v2's official number: style-controlled scores from sealed judge and generate stages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from focalpo.reporting.cells import Results
from focalpo.reporting.table_run import TableRun
from focalpo.scoring.style_control import Played, style_controlled, style_difference
from focalpo.stages.records import ArenaGame, Completion, Question, read_records

CATEGORY = "hard_prompt"
"""Upstream controls style on the hard prompts only; creative writing is scored without style control."""


def with_styled(results: Results, run: TableRun, setting: str) -> Results:
    """Add a column to the results of a setting: the style-controlled score on hard prompts."""
    folders = {
        row: list(zip(*(run.seeds(setting, row, kind).values() for kind in ("judge", "generate")), strict=True))
        for row in run.rows
    }
    benchmark = run.benchmark(setting, "arena_hard")
    assert benchmark is not None
    scores = styled_scores({row: found for row, found in folders.items() if found}, benchmark)
    rows = [
        replace(row, extras={"arena_styled": scores[row.name], **row.extras}) if row.name in scores else row
        for row in results.rows[setting]
    ]
    return replace(results, rows={**results.rows, setting: rows})


def styled_scores(rows: Mapping[str, Sequence[tuple[Path, Path]]], benchmark: Path) -> dict[str, float]:
    """Style-controlled score of each row in percent, the mean over its runs; one fit covers all runs.

    Args:
        rows: the (judge, generate) folders of each run, by row.
        benchmark: the sealed benchmark folder.

    Raises:
        ValueError: when style alone determines the results, or a run won or lost every battle.
    """
    questions = {q.id: q for q in read_records(benchmark / "questions.parquet", Question) if q.id.startswith(CATEGORY)}
    played = {(row, place): _played(*run, questions) for row, runs in rows.items() for place, run in enumerate(runs)}
    scores = style_controlled(played)
    return {row: float(np.mean([scores[row, place] for place in range(len(runs))])) for row, runs in rows.items()}


def _played(judge: Path, generate: Path, questions: Mapping[str, Question]) -> Played:
    games = [game for game in read_records(judge / "arena_hard.parquet", ArenaGame) if game.id in questions]
    answers = {
        completion.id: completion.text for completion in read_records(generate / "arena_hard.parquet", Completion)
    }
    ids = list(dict.fromkeys(game.id for game in games))
    results, weights = (
        np.array([getattr(game, name) for game in games], dtype=float).reshape(len(ids), -1)
        for name in ("result", "weight")
    )
    style = style_difference([answers[name] for name in ids], [questions[name].reference for name in ids])
    return Played(results, weights, style)
