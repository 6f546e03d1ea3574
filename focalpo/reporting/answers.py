"""The models' answers and the verdicts on them as small scripts, which the report's page loads on demand.

    answers/<setting>-questions.js     answers/<setting>-<row>.js      answers("<name>", {benchmark: [...]});

Scripts instead of JSON: a page opened from disk may load a script but may not fetch JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from focalpo.reporting.table_run import SCORED, TableRun
from focalpo.scoring.stats import arena_score, win_rate
from focalpo.stages.folder import Job
from focalpo.stages.records import (
    AlpacaVerdict,
    ArenaGame,
    Completion,
    Followed,
    Instructed,
    Question,
    read_records,
)


def write_answers(run: TableRun, folder: Path) -> None:
    """Write the questions of every setting, and every row's scored answers of its first seed."""
    folder.mkdir(exist_ok=True)
    for setting in run.settings:
        first = {}
        for row in run.rows:
            generated = run.seeds(setting, row, "generate")
            if generated:
                seed = next(iter(generated))
                scored = {kind: found[seed] for kind in SCORED if seed in (found := run.seeds(setting, row, kind))}
                first[row] = scored_answers(scored, generated[seed])
                _write(folder, f"{setting}-{row}", first[row])
        names = dict.fromkeys(name for answers in first.values() for name in answers)
        questions = {name: _questions(path) for name in names if (path := run.questions(setting, name))}
        if questions:
            _write(folder, f"{setting}-questions", questions)


def scored_answers(scored: Mapping[str, Path], generate: Path) -> dict[str, list[dict]]:
    """One run's answers by set of completions, in question order; `score` is an answer's share of the win, 0 to 1, None
    where there is no verdict.

    `scored` holds the run's folders by kind of stage.
    """
    scores = _judged(scored["judge"]) if "judge" in scored else {}
    if "check" in scored:
        scores |= _checked(scored["check"])
    return {name: _with_scores(generate / f"{name}.parquet", found) for name, found in scores.items()}


def _with_scores(file: Path, scores: list[dict]) -> list[dict]:
    answers = read_records(file, Completion)
    return [
        {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished} | score
        for answer, score in zip(answers, scores, strict=True)
    ]


def _judged(folder: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    if (file := folder / "alpaca_eval.parquet").is_file():
        found["alpaca_eval"] = [{"score": _alpaca(verdict)} for verdict in read_records(file, AlpacaVerdict)]
    if (file := folder / "arena_hard.parquet").is_file():
        games = read_records(file, ArenaGame)
        pairs = [games[first : first + 2] for first in range(0, len(games), 2)]
        found["arena_hard"] = [
            {"score": _arena(pair), "games": [game.verdict or "no verdict" for game in pair]} for pair in pairs
        ]
    return found


def _checked(folder: Path) -> dict[str, list[dict]]:
    """The share of instructions followed, strictly, and which they are."""
    job = Job.read(folder)
    found = {}
    for name, benchmark in job.settings["sets"].items():
        instructed = read_records(job.inputs[benchmark] / "instructions.parquet", Instructed)
        kinds = {each.id: each.kinds for each in instructed}
        answers = read_records(folder / f"{name}.parquet", Followed)
        found[name] = [_split(each.strict, kinds[each.id]) for each in answers]
    return found


def _split(strict: list[bool], kinds: list[str]) -> dict:
    named = list(zip(kinds, strict, strict=True))
    followed, missed = ([kind for kind, right in named if right == wanted] for wanted in (True, False))
    return {"score": len(followed) / len(named), "followed": followed, "missed": missed}


def _alpaca(verdict: AlpacaVerdict) -> float | None:
    return win_rate(np.array([[verdict.preference]])).wins.item() if verdict.judged else None


def _arena(games: list[ArenaGame]) -> float | None:
    if not any(game.judged for game in games):
        return None
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
