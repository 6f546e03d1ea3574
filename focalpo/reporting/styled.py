"""Arena-Hard v2's number with style control, on its hard prompts: from the judge and generate stages of all rows.

Upstream controls style on the hard prompts only; creative writing is scored without style control.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from focalpo.reporting.scores import Run, Score
from focalpo.scoring.stats import Remembered
from focalpo.scoring.style_control import Models, NoRatingsError, Played, StyleControlled, style_difference
from focalpo.stages.records import ArenaGame, Completion, Question, read_records

CATEGORY = "hard_prompt"
COLUMN = "hard_prompt_equal_style"


def styled(rows: Mapping[str, Sequence[Run]], benchmark: Path) -> dict[str, tuple[Score, float]]:
    """By row: its score at equal style, and in percent that of the authors, at the table's mean style.

    Nothing where a run won or lost every battle, or style alone decides: the fit is one over all rows.

    Args:
        rows: the runs of each row; a row whose runs were not all judged on the benchmark is left out.
        benchmark: the sealed benchmark folder.
    """
    all_questions = read_records(benchmark / "questions.parquet", Question)
    questions = {question.id: question for question in all_questions if question.id.startswith(f"{CATEGORY}/")}
    judged = {name: runs for name, runs in rows.items() if questions and runs and all(map(_judged, runs))}
    places = [(name, run) for name, runs in judged.items() for run in runs]
    if not places:
        return {}
    try:
        fitted = StyleControlled([_played(run, questions) for _, run in places])
    except NoRatingsError:
        return {}
    together, mean_style = Remembered(fitted), fitted.at_mean_style()
    found = {}
    for name, runs in judged.items():
        mine = [place for place, (row, _) in enumerate(places) if row == name]
        score = Score(tuple(run.seed for run in runs), Models(together, mine), float("nan"))
        found[name] = score, float(np.mean(mean_style[mine]))
    return found


def _judged(run: Run) -> bool:
    files = [run.folders[kind] / "arena_hard.parquet" for kind in ("judge", "generate") if kind in run.folders]
    return len(files) == 2 and all(file.is_file() for file in files)


def _played(run: Run, questions: Mapping[str, Question]) -> Played:
    judged = read_records(run.folders["judge"] / "arena_hard.parquet", ArenaGame)
    games = [game for game in judged if game.id in questions]
    answers = {each.id: each.text for each in read_records(run.folders["generate"] / "arena_hard.parquet", Completion)}
    ids = list(dict.fromkeys(game.id for game in games))
    results, weights = (
        np.array([getattr(game, name) for game in games], dtype=float).reshape(len(ids), -1)
        for name in ("result", "weight")
    )
    style = style_difference([answers[name] for name in ids], [questions[name].reference for name in ids])
    return Played(results, weights, style)
