"""One entry point for both kinds of benchmark: questions and completions in, verdicts of the protocol's kind out."""

from collections.abc import Sequence

from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.arena_hard import judge_arena
from focalpo.judging.endpoint import Endpoint
from focalpo.judging.protocol import AlpacaProtocol, JudgedProtocol
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question


def judge(
    questions: Sequence[Question], completions: Sequence[Completion], protocol: JudgedProtocol, endpoint: Endpoint
) -> list[AlpacaVerdict] | list[ArenaGame]:
    """Judge all questions of a benchmark; returns the verdicts in the order of its questions.

    Raises:
        ValueError: if the completions do not match the questions, or verdicts are missing (the error names them).
    """
    if isinstance(protocol, AlpacaProtocol):
        return judge_alpaca(questions, completions, protocol, endpoint)
    return judge_arena(questions, completions, protocol, endpoint)
