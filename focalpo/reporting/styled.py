"""Arena-Hard v2's official number: sealed judge and generate stages in, scores with style held equal out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from focalpo.judging.style_control import Played, style_controlled, style_difference
from focalpo.records import ArenaGame, Completion, Question, read_records

CATEGORY = "hard_prompt"
"""Upstream controls style on the hard prompts; creative writing is scored as it stands."""


def styled_scores(rows: Mapping[str, Sequence[tuple[Path, Path]]], benchmark: Path) -> dict[str, float]:
    """Percent by row, the mean over its runs, all runs in one fit; `rows` holds (judge, generate) folders of each run.

    Raises:
        ValueError: when style alone decides, or a run won or lost every battle.
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
    asked = list(dict.fromkeys(game.id for game in games))
    results, weights = (
        np.array([getattr(game, name) for game in games], dtype=float).reshape(len(asked), -1)
        for name in ("result", "weight")
    )
    style = style_difference([answers[name] for name in asked], [questions[name].reference for name in asked])
    return Played(results, weights, style)
