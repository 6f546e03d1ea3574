"""What a judge wrote about each answer, and which answer it saw first, from the records of its requests.

questions, answers, protocol --the requests that they make--> records.jsonl --> Judgement for each that has a good reply

Nothing is asked and nothing is scored here: the verdicts are in the stage's <benchmark>.parquet.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from focalpo.judging.answers import in_benchmark_order
from focalpo.judging.arena_hard import GAMES, labels
from focalpo.judging.earlier import RECORDS
from focalpo.judging.protocol import (
    AlpacaProtocol,
    ArenaProtocol,
    ArenaTwoProtocol,
    JudgedProtocol,
    annotator_config,
    fill_template,
    prompt_files,
)
from focalpo.judging.recording import Recording, request_id
from focalpo.judging.requests import body_of, protocol_of
from focalpo.judging.shown import MESSAGE
from focalpo.judging.thinking import spoken
from focalpo.judging.upstream import with_prompt
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Judgement, Question, read_records

Messages = list[dict[str, str]]


def judgements(folder: Path) -> dict[str, list[list[Judgement | None]]]:
    """What the judge wrote in a judge stage's folder, by benchmark, as `written` returns it; nothing without records.

    Raises:
        ValueError: if a line of the records is not an attempt.
    """
    if not (folder / RECORDS).is_file():
        return {}
    job, recording = Job.read(folder), Recording(folder / RECORDS, read_only=True)
    found = {}
    for name, values in job.settings["protocols"].items():
        protocol, benchmark = protocol_of(values), job.inputs[name]
        assert isinstance(protocol, JudgedProtocol)
        if isinstance(protocol, ArenaProtocol):
            protocol = with_prompt(protocol, benchmark)
        questions = read_records(benchmark / "questions.parquet", Question)
        completions = read_records(job.inputs["completions"] / f"{name}.parquet", Completion)
        found[name] = written(questions, completions, protocol, recording)
    return found


def written(
    questions: Sequence[Question], completions: Sequence[Completion], protocol: JudgedProtocol, recording: Recording
) -> list[list[Judgement | None]]:
    """The judgements of each question, one or, in Arena-Hard, one per game; None where no good reply is recorded.

    Raises:
        ValueError: if the completions do not match the questions.
    """
    answers = in_benchmark_order(questions, completions, protocol.prompts)
    pairs = zip(questions, answers, strict=True)
    if isinstance(protocol, AlpacaProtocol):
        return [[_alpaca(question, answer, protocol, recording)] for question, answer in pairs]
    return [[_game(question, answer, game, protocol, recording) for game in GAMES] for question, answer in pairs]


def requests_of(question: Question, answer: Completion, protocol: JudgedProtocol) -> Iterator[tuple[bool, Messages]]:
    """The messages that show the judge an answer and the reference: in both orders, and whether the answer is first.

    AlpacaEval's library draws one of the two orders; Arena-Hard's games take both, with the reference first in game 1.
    """
    for first in (False, True):
        one, two = (answer.text, question.reference) if first else (question.reference, answer.text)
        asked = question.prompt[-1]["content"]
        if isinstance(protocol, AlpacaProtocol):
            texts = {"instruction": asked, "output_1": one, "output_2": two}
            yield (
                first,
                [
                    {"role": role, "content": fill_template(content.strip(), texts)}
                    for role, content in MESSAGE.findall(_template(protocol.annotator))
                ],
            )
        else:
            category = question.id.rpartition("/")[0] if isinstance(protocol, ArenaTwoProtocol) else ""
            turn = protocol.user_template.format(question=asked, answer_1=one, answer_2=two)
            system = _system(prompt_files(protocol)[category])
            yield first, [{"role": "system", "content": system}, {"role": "user", "content": turn}]


def _alpaca(question: Question, answer: Completion, protocol: AlpacaProtocol, recording: Recording) -> Judgement | None:
    for first, messages in requests_of(question, answer, protocol):
        if (text := _reply(messages, protocol, recording)) is not None:
            return Judgement(first, text)
    return None


def _game(
    question: Question, answer: Completion, game: int, protocol: ArenaProtocol, recording: Recording
) -> Judgement | None:
    """A game's judgement, with its second turn where the first has no verdict."""
    first, messages = list(requests_of(question, answer, protocol))[game - 1]
    text = _reply(messages, protocol, recording)
    if text is None or labels(text, protocol):
        return None if text is None else Judgement(first, text)
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": protocol.second_turn}]
    more = _reply([*messages, *turns], protocol, recording)
    return None if more is None else Judgement(first, f"{text}\n\n[{protocol.second_turn}]\n\n{more}")


def _reply(messages: Messages, protocol: JudgedProtocol, recording: Recording) -> str | None:
    reply = recording.reply(request_id(body_of(protocol, messages)))
    return None if reply is None else spoken(reply["choices"][0]["message"].get("content") or "")


@cache
def _template(annotator: Path) -> str:
    (settings,) = annotator_config(annotator).values()
    return Path(settings["prompt_template"]).read_text()


@cache
def _system(file: Path) -> str:
    return file.read_text().strip()
