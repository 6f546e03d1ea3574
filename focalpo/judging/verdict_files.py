"""What a judge said about one model's answers, in the layouts of alpaca_eval and arena-hard-auto, from its records.

    annotations.json                  with the names of alpaca_eval 0.6.6
    model_judgment/JUDGE/MODEL.jsonl  v0.1: {question_id, model, judge, games: [{user_prompt, judgment, score}]}
                                      v2.0: {uid, category, judge, model, baseline, games: [{prompt, judgment, score}]}

The verdicts are the sealed ones; a missing one is null in both. What a judge thought aloud is left out, because both
libraries would read verdicts in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from focalpo.judging.arena_hard import GAMES, labels
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, ArenaTwoProtocol, annotator_config
from focalpo.judging.read_back import Messages, Replies, attempt_at, requests_of, said_of, turns_of
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question


@dataclass(frozen=True, slots=True)
class Judged:
    """One model's answers to a benchmark in the order of its questions, and the judge's recorded good replies.

    `replies` holds the attempt that ended with each, by the request's id.
    """

    model: str
    questions: Sequence[Question]
    answers: Sequence[Completion]
    replies: Replies


def annotator_name(protocol: AlpacaProtocol) -> str:
    """The annotator's name, with the judge's where the configuration asks another one than the annotator's own."""
    (name,) = annotator_config(protocol.annotator)
    return name if protocol.judge == _own_judge(protocol) else f"{name}_{file_name(protocol.judge)}"


def file_name(name: str) -> str:
    """A model's name as a file's: hub ids have a slash."""
    return name.replace("/", "_")


def alpaca_annotations(
    protocol: AlpacaProtocol, asked: Sequence[dict], judged: Judged, verdicts: Sequence[AlpacaVerdict]
) -> list[dict]:
    """The rows of annotations.json; `asked` are the rows of the benchmark's own file, with their data sets.

    A row that no request was made for, because both outputs are equal, has no fields of a reply.
    """
    (annotator,) = annotator_config(protocol.annotator).values()
    rows = []
    for source, question, answer, verdict in zip(asked, judged.questions, judged.answers, verdicts, strict=True):
        rows.append(
            {
                "instruction": question.prompt[-1]["content"],
                "output_1": question.reference,
                "generator_1": protocol.baseline,
                **({"dataset": source["dataset"]} if "dataset" in source else {}),
                "output_2": answer.text,
                "generator_2": judged.model,
                "annotator": annotator_name(protocol),
                "preference": verdict.preference if verdict.judged else None,
            }
        )
        for _, messages in requests_of(question, answer, protocol):
            if attempt := attempt_at(messages, protocol, judged.replies):
                rows[-1] |= _annotated(protocol, annotator, attempt)
    return rows


def arena_judgments(protocol: ArenaProtocol, judged: Judged, games: Sequence[ArenaGame]) -> list[dict]:
    """The rows of model_judgment/JUDGE/MODEL.jsonl.

    Raises:
        ValueError: if the records lack a judgment that has a verdict.
    """
    verdicts = {(game.id, game.game): game.verdict for game in games}
    rows = []
    for question, answer in zip(judged.questions, judged.answers, strict=True):
        category, _, uid = question.id.rpartition("/")
        two = isinstance(protocol, ArenaTwoProtocol)
        played = []
        for game, (_, messages) in zip(GAMES, requests_of(question, answer, protocol), strict=True):
            said, verdict = turns_of(messages, protocol, judged.replies), verdicts[question.id, game]
            if verdict and labels("\n".join(said), protocol) != {verdict}:
                raise ValueError(f"the records hold no judgment {verdict} of {question.id}, game {game}; restore them")
            played.append(_game(two, messages, said, verdict or None))
        if isinstance(protocol, ArenaTwoProtocol):
            row = {"uid": uid, "category": category, "judge": protocol.judge, "model": judged.model}
            row |= {"baseline": protocol.categories[category].baseline}
        else:
            row = {"question_id": uid, "model": judged.model, "judge": protocol.judge}
        rows.append(row | {"games": played})
    return rows


def _own_judge(protocol: AlpacaProtocol) -> str:
    (annotator,) = annotator_config(protocol.annotator).values()
    return annotator["completions_kwargs"]["model_name"]


def _annotated(protocol: AlpacaProtocol, annotator: dict, attempt: dict) -> dict:
    """The fields of an annotation that are about the judge's reply."""
    reply = attempt["reply"]
    choice, tokens = reply["choices"][0], reply["usage"]["total_tokens"]
    text = said_of(attempt) or " "
    whole = annotator.get("completion_key") == "completions_all"
    found = {
        "preference_version": f"alpaca_eval=={protocol.library}",
        "preference_time_per_example": attempt["seconds"],
    }
    price = annotator["completions_kwargs"].get("price_per_token")
    if price is not None:
        found["preference_price_per_example"] = tokens * price
    return found | {"preference_raw_completion": choice | {"text": text, "total_tokens": tokens} if whole else text}


def _game(two: bool, messages: Messages, said: list[str], score: str | None) -> dict:
    if two:
        return {"score": score, "judgment": {"answer": "\n".join(said)}, "prompt": messages}
    return {
        "user_prompt": messages[1]["content"],
        "judgment": "".join(f"\n{text}" for text in said),
        "score": score,
    }
