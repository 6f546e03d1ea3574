"""Files of one model's answers in the layouts of AlpacaEval and Arena-Hard: read for judging, written for others.

    model_outputs.json         [{instruction, output, generator, dataset}]           matched by the instruction's text
    model_answer/NAME.jsonl    {question_id, model_id, choices: [{turns: [{content}]}]}         Arena-Hard of 2024
                               {uid, model, messages: [..., {content: {answer}}]}               Arena-Hard of 2025

Both libraries leave a question without an answer out and judge one that is answered twice again; here every question
must be answered exactly once. An empty answer is an answer, as it is for them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, ArenaTwoProtocol, JudgedProtocol
from focalpo.stages.reading import is_encodable, read_json, read_json_rows
from focalpo.stages.records import Completion, Question, listed

Read = TypeVar("Read")
REMEDY = "name a file that alpaca_eval or arena-hard-auto wrote, as docs/extending.md shows"


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers in the order of the questions, and the model's name where the file has it.

    A completion's `tokens` are 0 where the file does not count them.
    """

    model: str | None
    completions: list[Completion]


@dataclass(frozen=True, slots=True)
class _Answer:
    """One row of a file: what it answers (an instruction, or a question's id in its category), and by whom."""

    question: str
    text: str
    model: str | None
    tokens: int = 0


def read_answers(path: Path, protocol: JudgedProtocol, questions: Sequence[Question]) -> Answers:
    """Read a model's answers to all questions of a benchmark.

    Raises:
        ValueError: if a row has another layout or its text cannot be encoded, a question has no answer or two, a row
            answers no question, or the rows are of several models.
    """
    if isinstance(protocol, AlpacaProtocol):
        rows = _alpaca_rows(path)
        asked = [question.prompt[-1]["content"] for question in questions]
    else:
        rows = each_row(path, read_json_rows(path), _arena_row, REMEDY)
        asked = [question.id.rpartition("/")[2] for question in questions]
    _check_rows(path, protocol.name, rows, asked)
    found = {row.question: row for row in rows}
    answers = [found[name] for name in asked]
    return Answers(
        rows[0].model,
        [Completion(q.id, q.prompt, row.text, row.tokens, True) for q, row in zip(questions, answers, strict=True)],
    )


def each_row(file: Path, rows: Sequence[dict], read: Callable[[dict], Read], remedy: str) -> list[Read]:
    """What `read` takes from each row.

    Raises:
        ValueError: names the first row of another layout.
    """
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(read(row))
        except (LookupError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file} row {number} has another layout ({reason}); {remedy}") from error
    return found


def text_of(value: object) -> str:
    """The value if it is a text; raises TypeError, which `each_row` reports."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text is expected")
    return value


def uid_of(row: dict) -> str:
    """The id of the question that a row of Arena-Hard's files is about."""
    return text_of(row.get("uid") or row["question_id"])


def arena_answer(row: dict) -> str:
    """The answer, from any layout of the model_answer files: plain, messages (2025) or choices (2024)."""
    if "answer" in row:
        return text_of(row["answer"])
    if "messages" in row:
        content = row["messages"][-1]["content"]
        return text_of(content["answer"] if isinstance(content, dict) else content)
    return text_of(row["choices"][0]["turns"][0]["content"])


def _alpaca_rows(path: Path) -> list[_Answer]:
    rows = read_json(path, REMEDY)
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a list of answers; {REMEDY}")
    return each_row(path, rows, _alpaca_row, REMEDY)


def _alpaca_row(row: dict) -> _Answer:
    return _Answer(text_of(row["instruction"]), text_of(row["output"]), row.get("generator"))


def _arena_row(row: dict) -> _Answer:
    return _Answer(uid_of(row), arena_answer(row), row.get("model") or row.get("model_id"), _arena_tokens(row))


def _arena_tokens(row: dict) -> int:
    """The tokens of the answer as the file counts them, in any of its layouts; 0 if it does not."""
    turn = {} if "messages" in row or "answer" in row else row["choices"][0]["turns"][0]
    counts = (place.get("token_len") for place in (turn, row.get("metadata") or {}, row.get("conv_metadata") or {}))
    return next((count for count in counts if isinstance(count, int)), 0)


def _check_rows(path: Path, benchmark: str, rows: Sequence[_Answer], asked: Sequence[str]) -> None:
    """Check that the rows answer each of `asked` once and are of one model, and that their texts can be encoded."""
    places: dict[str, list[str]] = {name: [] for name in asked}
    foreign = []
    for number, row in enumerate(rows, 1):
        places.get(row.question, foreign).append(str(number))
    twice = [number for found in places.values() for number in found[1:]]
    missing = [str(number) for number, name in enumerate(asked, 1) if not places[name]]
    broken = [str(number) for number, row in enumerate(rows, 1) if not is_encodable(row.text)]
    models = sorted({str(row.model) for row in rows})
    if foreign:
        raise ValueError(f"{path}: {listed(foreign)} answer no question of {benchmark}; remove them from the file")
    if twice:
        raise ValueError(f"{path}: {listed(twice)} answer a question a second time; keep one answer to each")
    if missing:
        raise ValueError(f"{path} has no answer to {listed(missing)} of {benchmark}; add them to the file")
    if broken:
        raise ValueError(f"{path}: the answers in {listed(broken)} cannot be encoded (lone surrogate or NUL); fix them")
    if len(models) > 1:
        raise ValueError(f"{path} holds answers of {', '.join(models)}; keep those of one model")


def alpaca_outputs(questions: Sequence[dict], answers: Sequence[Completion], model: str) -> list[dict]:
    """The rows of model_outputs.json; `questions` are those of the benchmark's own file."""
    return [
        {name: asked[name] for name in ("dataset", "instruction") if name in asked}
        | {"output": answer.text, "generator": model}
        for asked, answer in zip(questions, answers, strict=True)
    ]


def arena_answers(protocol: ArenaProtocol, answers: Sequence[Completion], model: str, written: float) -> list[dict]:
    """The rows of model_answer/MODEL.jsonl: v0.1 in the layout of 2024, v2.0 in that of 2025.

    `token_len` counts the model's own tokens, where they are known; upstream counts those of OpenAI's tokenizers.
    `written` is in seconds since the epoch.
    """
    counted = any(answer.tokens for answer in answers)
    return [_arena_answer(protocol, answer, model, written, counted) for answer in answers]


def _arena_answer(protocol: ArenaProtocol, answer: Completion, model: str, written: float, counted: bool) -> dict:
    uid = answer.id.rpartition("/")[2]
    name = hashlib.sha256(f"{model} {uid}".encode()).hexdigest()[:22]  # as long as upstream's, and the same every time
    if isinstance(protocol, ArenaTwoProtocol):
        said = {"role": "assistant", "content": {"answer": answer.text}}
        return {"uid": uid, "ans_id": name, "model": model, "messages": [*answer.prompt, said], "tstamp": written}
    turn = {"content": answer.text} | ({"token_len": answer.tokens} if counted else {})
    choices = [{"index": 0, "turns": [turn]}]
    return {"question_id": uid, "answer_id": name, "model_id": model, "choices": choices, "tstamp": written}
