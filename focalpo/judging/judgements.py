"""What a judge wrote about each answer, and which answer it saw first, from the records of its requests.

Nothing is asked and nothing is scored here: the verdicts are in the stage's <benchmark>.parquet.
"""

from collections.abc import Sequence
from pathlib import Path

from focalpo.judging.answers import in_benchmark_order
from focalpo.judging.earlier import RECORDS
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, JudgedProtocol
from focalpo.judging.read_back import Replies, attempt_at, read_replies, requests_of, said_of, turns_of
from focalpo.judging.requests import protocol_of
from focalpo.judging.upstream import with_prompt
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Judgement, Question, read_records


def judgements(folder: Path) -> dict[str, list[list[Judgement | None]]]:
    """What the judge wrote in a judge stage's folder, by benchmark, as `written` returns it; nothing without records.

    Raises:
        ValueError: if a line of the records is not an attempt.
    """
    if not (folder / RECORDS).is_file():
        return {}
    job, replies = Job.read(folder), read_replies(folder / RECORDS)
    found = {}
    for name, values in job.settings["protocols"].items():
        protocol, benchmark = protocol_of(values), job.inputs[name]
        assert isinstance(protocol, JudgedProtocol)
        if isinstance(protocol, ArenaProtocol):
            protocol = with_prompt(protocol, benchmark)
        questions = read_records(benchmark / "questions.parquet", Question)
        completions = read_records(job.inputs["completions"] / f"{name}.parquet", Completion)
        found[name] = written(questions, completions, protocol, replies)
    return found


def written(
    questions: Sequence[Question], completions: Sequence[Completion], protocol: JudgedProtocol, replies: Replies
) -> list[list[Judgement | None]]:
    """The judgements of each question, one or, in Arena-Hard, one per game; None where no good reply is recorded.

    Raises:
        ValueError: if the completions do not match the questions.
    """
    answers = in_benchmark_order(questions, completions, protocol.prompts)
    pairs = zip(questions, answers, strict=True)
    if isinstance(protocol, AlpacaProtocol):
        return [[_alpaca(question, answer, protocol, replies)] for question, answer in pairs]
    return [_games(question, answer, protocol, replies) for question, answer in pairs]


def _alpaca(question: Question, answer: Completion, protocol: AlpacaProtocol, replies: Replies) -> Judgement | None:
    for first, messages in requests_of(question, answer, protocol):
        if attempt := attempt_at(messages, protocol, replies):
            return Judgement(first, said_of(attempt))
    return None


def _games(question: Question, answer: Completion, protocol: ArenaProtocol, replies: Replies) -> list[Judgement | None]:
    """Both games' judgements, with the second turn where the first has no verdict."""
    between = f"\n\n[{protocol.second_turn}]\n\n"
    said = [(first, turns_of(asked, protocol, replies)) for first, asked in requests_of(question, answer, protocol)]
    return [Judgement(first, between.join(turns)) if turns else None for first, turns in said]
