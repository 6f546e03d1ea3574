"""The models' answers and their judgements as small scripts, which the report's page loads on demand.

    answers/<setting>-questions.js     answers/<setting>-<row>.js      answers("<name>", {benchmark: [...]});

Scripts instead of JSON: a page opened from disk may load a script but may not fetch JSON.
"""

import json
from pathlib import Path

import numpy as np

from focalpo.reporting.table_run import TableRun
from focalpo.scoring.stats import arena_score, win_rate
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question, read_records

BENCHMARKS = ("alpaca_eval", "arena_hard")


def write_answers(run: TableRun, folder: Path) -> None:
    """Write the questions of every setting, and every row's judged answers of its first seed."""
    folder.mkdir(exist_ok=True)
    for setting in run.settings:
        questions = {name: _questions(path) for name in BENCHMARKS if (path := run.benchmark(setting, name))}
        if questions:
            _write(folder, f"{setting}-questions", questions)
        for row in run.rows:
            judges, generated = run.seeds(setting, row, "judge"), run.seeds(setting, row, "generate")
            if judges:
                seed = next(iter(judges))
                _write(folder, f"{setting}-{row}", judged_answers(judges[seed], generated[seed]))


def judged_answers(judge: Path, generate: Path) -> dict[str, list[dict]]:
    """One run's answers by benchmark, in question order; `score` is an answer's share of the win, 0 to 1."""
    verdicts = read_records(judge / "alpaca_eval.parquet", AlpacaVerdict)
    games = read_records(judge / "arena_hard.parquet", ArenaGame)
    alpaca: list[dict] = [{"score": _alpaca(verdict)} for verdict in verdicts]
    arena: list[dict] = [
        {"score": _arena(pair), "games": [game.verdict for game in pair]}
        for pair in (games[first : first + 2] for first in range(0, len(games), 2))
    ]
    judged = {}
    for name, scores in zip(BENCHMARKS, (alpaca, arena), strict=True):
        answers = read_records(generate / f"{name}.parquet", Completion)
        judged[name] = [
            {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished} | score
            for answer, score in zip(answers, scores, strict=True)
        ]
    return judged


def _alpaca(verdict: AlpacaVerdict) -> float:
    return win_rate(np.array([[verdict.preference]])).wins.item()


def _arena(games: list[ArenaGame]) -> float:
    results, weights = (np.array([[[getattr(game, name) for game in games]]], float) for name in ("result", "weight"))
    score = arena_score(results, weights)
    return (score.wins / score.battles).item()


def _questions(benchmark: Path) -> list[dict]:
    questions = read_records(benchmark / "questions.parquet", Question)
    return [
        {"prompt": "\n\n".join(message["content"] for message in question.prompt), "reference": question.reference}
        for question in questions
    ]


def _write(folder: Path, name: str, content: dict) -> None:
    text = json.dumps(content, separators=(",", ":"))
    (folder / f"{name}.js").write_text(f"answers({json.dumps(name)},{text});\n")
