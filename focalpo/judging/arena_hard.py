"""Arena-Hard: judges completions against the baseline's answers, two games per prompt.

    game 1: A = baseline, B = model        game 2: A = model, B = baseline
    judge --> reply --regex--> label --protocol.verdicts--> (what A wins, battles it counts for) --> the model's result

A reply without a label gets one second turn. A reply with conflicting labels is not a verdict: the request is retried,
and a game that still has no verdict is missing: counted and named, never scored.
"""

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from focalpo.judging.answers import in_benchmark_order
from focalpo.judging.endpoint import Endpoint, JudgeError
from focalpo.judging.missing import check_missing
from focalpo.judging.protocol import ArenaProtocol, ArenaTwoProtocol, prompt_files
from focalpo.judging.replies import Check
from focalpo.judging.requests import body_of
from focalpo.judging.thinking import spoken
from focalpo.stages.records import ArenaGame, Completion, Question

GAMES = (1, 2)


def judge_arena(
    questions: Sequence[Question],
    completions: Sequence[Completion],
    protocol: ArenaProtocol,
    endpoint: Endpoint,
    most_missing: float = 0.0,
    games: Sequence[int] = GAMES,
) -> list[ArenaGame]:
    """Play both games of every question, or only some; returns the games in the order of the questions.

    A game without a verdict has the weight 0.

    Raises:
        ValueError: if the completions do not match the questions, or more than the share `most_missing` of the games
            has no verdict (the error names them).
    """
    answers = in_benchmark_order(questions, completions, protocol.prompts)
    systems = {category: file.read_text().strip() for category, file in prompt_files(protocol).items()}
    # The first turn may end without a label, but not with two different ones.
    first = endpoint.client(_check(protocol, label_optional=True))
    second = endpoint.client(_check(protocol, label_optional=False))
    causes: list[str] = []

    def play(task: tuple[Question, Completion, int]) -> ArenaGame:
        question, answer, game = task
        texts = (question.reference, answer.text) if game == 1 else (answer.text, question.reference)
        turn = protocol.user_template.format(
            question=question.prompt[-1]["content"], answer_1=texts[0], answer_2=texts[1]
        )
        category = question.id.rpartition("/")[0] if isinstance(protocol, ArenaTwoProtocol) else ""
        messages = [{"role": "system", "content": systems[category]}, {"role": "user", "content": turn}]
        try:
            label = _verdict(first, second, messages, protocol)
        except JudgeError as error:
            causes.append(str(error))
            return ArenaGame(question.id, game, "", math.nan, 0)
        wins, count = protocol.verdicts[label]
        return ArenaGame(question.id, game, label, 1 - wins if game == 1 else wins, count)

    tasks = [(question, answer, game) for question, answer in zip(questions, answers, strict=True) for game in games]
    with ThreadPoolExecutor(endpoint.concurrency) as pool:
        played = list(pool.map(play, tasks))
    missing = [f"{game.id} game {game.game}" for game in played if not game.judged]
    check_missing(missing, len(played), most_missing, causes[0] if causes else "")
    return played


def labels(text: str, protocol: ArenaProtocol) -> set[str]:
    """The distinct verdict labels in a reply; in v2 only the last one, in single or double brackets."""
    if isinstance(protocol, ArenaTwoProtocol):
        found = ([m for m in re.findall(r, text.upper()) if m] for r in (protocol.regex, protocol.second_regex))
        last = next((matches[-1] for matches in found if matches), "")
        return {last} & protocol.verdicts.keys()
    return {label for label in re.findall(protocol.regex, text) if label in protocol.verdicts}


def _verdict(first: openai.OpenAI, second: openai.OpenAI, messages: list[dict], protocol: ArenaProtocol) -> str:
    reply = _ask(first, messages, protocol)
    found = labels(reply, protocol)
    if not found:
        turns = [{"role": "assistant", "content": reply}, {"role": "user", "content": protocol.second_turn}]
        found = labels(_ask(second, [*messages, *turns], protocol), protocol)
    (label,) = found  # the clients' checks guarantee exactly one
    return label


def _ask(client: openai.OpenAI, messages: list[dict], protocol: ArenaProtocol) -> str:
    # Not `chat.completions.create`: it validates the type of every field, which is a third of a call's cost.
    reply: Any = client.post("/chat/completions", cast_to=object, body=body_of(protocol, messages))
    return spoken(reply["choices"][0]["message"]["content"])


def _check(protocol: ArenaProtocol, label_optional: bool) -> Check:
    def check(reply: dict) -> str | None:
        text = spoken(reply["choices"][0]["message"].get("content") or "")
        if not text:
            return "an empty judgement"  # a second turn would have nothing to continue
        found = labels(text, protocol)
        if len(found) > 1:
            return f"conflicting verdicts {', '.join(sorted(found))}"
        return None if found or label_optional else "no verdict in the reply"

    return check
