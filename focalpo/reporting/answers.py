"""The models' answers and the verdicts on them, in words, as small scripts, which the report's page loads on demand.

    answers/<setting>-questions.js     answers/<setting>-<row>.js      answers("<name>", {benchmark: [...]});

Scripts instead of JSON: a page opened from disk may load a script but may not fetch JSON.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from focalpo.reporting.table_run import TableRun
from focalpo.scoring.stats import arena_score, win_rate
from focalpo.stages.folder import Job
from focalpo.stages.metrics import SCORED
from focalpo.stages.records import (
    AlpacaVerdict,
    ArenaGame,
    Completion,
    Followed,
    Instructed,
    Judgement,
    Question,
    read_records,
)

NOTICE = "LICENCE.txt"
Judgements = Mapping[str, Sequence[Sequence[Judgement | None]]]
"""What the judge wrote about each answer, by set of completions: one judgement, or one per game."""
REFERENCE, OURS = "the reference", "this answer"


def write_answers(run: TableRun, folder: Path, written: Callable[[Path], Judgements], licence: str) -> None:
    """Write the questions of every setting, and every row's scored answers of its first seed.

    `written` reads what the judge wrote from the folder of a judge stage; `licence` says what may not be shared, and is
    written beside the answers.
    """
    folder.mkdir(exist_ok=True)
    if licence:
        (folder / NOTICE).write_text(f"{licence}\n")
    for setting in run.settings:
        first = {}
        for row in run.rows:
            generated = run.seeds(setting, row, "generate")
            if generated:
                seed = next(iter(generated))
                scored = {kind: found[seed] for kind in SCORED if seed in (found := run.seeds(setting, row, kind))}
                said = written(scored["judge"]) if "judge" in scored else {}
                first[row] = scored_answers(scored, generated[seed], said)
                _write(folder, f"{setting}-{row}", first[row])
        names = dict.fromkeys(name for answers in first.values() for name in answers)
        questions = {name: _questions(path) for name in names if (path := run.questions(setting, name))}
        if questions:
            _write(folder, f"{setting}-questions", questions)


def scored_answers(scored: Mapping[str, Path], generate: Path, said: Judgements) -> dict[str, list[dict]]:
    """One run's answers by set of completions, in question order; `score` is an answer's share of the win, 0 to 1, None
    where there is no verdict, `result` the same in words, `verdicts` who saw what and wrote what.

    `scored` holds the run's folders by kind of stage.
    """
    scores = _judged(scored["judge"], said) if "judge" in scored else {}
    if "check" in scored:
        scores |= _checked(scored["check"])
    return {name: _with_scores(generate / f"{name}.parquet", found) for name, found in scores.items()}


def _with_scores(file: Path, scores: list[dict]) -> list[dict]:
    answers = read_records(file, Completion)
    return [
        {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished} | score
        for answer, score in zip(answers, scores, strict=True)
    ]


def _judged(folder: Path, said: Judgements) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    if (file := folder / "alpaca_eval.parquet").is_file():
        verdicts = read_records(file, AlpacaVerdict)
        wrote = said.get("alpaca_eval") or [[None]] * len(verdicts)
        found["alpaca_eval"] = [
            _result(_alpaca(verdict), "judged better than the reference: {}", [shown_first(each)] if each else [])
            for verdict, (each,) in zip(verdicts, wrote, strict=True)
        ]
    if (file := folder / "arena_hard.parquet").is_file():
        games = read_records(file, ArenaGame)
        pairs = [games[first : first + 2] for first in range(0, len(games), 2)]
        wrote = said.get("arena_hard") or [[None, None]] * len(pairs)
        found["arena_hard"] = [
            _result(_arena(pair), "score of both games: {}", [played(*each) for each in zip(pair, texts, strict=True)])
            for pair, texts in zip(pairs, wrote, strict=True)
        ]
    return found


def _result(score: float | None, words: str, verdicts: list[dict]) -> dict:
    text = "the judge gave no verdict" if score is None else words.format(f"{100 * score:.0f}%")
    return {"score": score, "result": text, "verdicts": verdicts}


def shown_first(said: Judgement) -> dict:
    """AlpacaEval's only comparison in words: which answer the judge saw first, and what it wrote."""
    one, two = (OURS, REFERENCE) if said.first else (REFERENCE, OURS)
    return {"shown": f"The judge saw {one} first, as m, and {two} second, as M.", "wrote": said.text}


def played(game: ArenaGame, said: Judgement | None) -> dict:
    """A game of Arena-Hard in words: who is A and who is B, the verdict, and what the judge wrote.

    The reference is A in game 1, the model in game 2.
    """
    names = {"A": REFERENCE, "B": OURS} if game.game == 1 else {"A": OURS, "B": REFERENCE}
    shown = f"Game {game.game}: A is {names['A']}, shown first, B is {names['B']}. Verdict: {in_words(game, names)}."
    return {"shown": shown, "wrote": said.text if said else ""}


def in_words(game: ArenaGame, names: Mapping[str, str]) -> str:
    """A verdict such as A>>B in words; the label stands behind them, since the judge's text has it."""
    found = re.fullmatch(r"([AB])([<>=]{1,2})([AB])", game.verdict)
    if not game.judged or found is None:
        return game.verdict or "none"
    left, sign, right = found.groups()
    if "=" in sign:
        return f"a tie ({game.verdict})"
    much = "much" if len(sign) == 2 else "slightly"
    return f"{names[left if '>' in sign else right]} is {much} better ({game.verdict})"


def _checked(folder: Path) -> dict[str, list[dict]]:
    """The share of instructions followed, strictly, and which they are in words."""
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
    followed, missed = ([_kind(kind) for kind, right in named if right == wanted] for wanted in (True, False))
    result = f"instructions followed: {', '.join(followed) or 'none'}"
    result += f"; not followed: {', '.join(missed)}" if missed else ""
    return {"score": len(followed) / len(named), "result": result, "verdicts": []}


def _kind(name: str) -> str:
    """A kind of instruction in words: IFEval's names are group:kind_of_instruction."""
    return name.replace(":", ": ").replace("_", " ")


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
