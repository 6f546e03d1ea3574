"""One entry point for both kinds of benchmark: questions and completions in, verdicts of the protocol's kind out."""

from collections.abc import Sequence

from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.arena_hard import judge_arena
from focalpo.judging.endpoint import Endpoint
from focalpo.judging.protocol import AlpacaProtocol, JudgedProtocol
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question, listed


def judge(
    questions: Sequence[Question],
    completions: Sequence[Completion],
    protocol: JudgedProtocol,
    endpoint: Endpoint,
    most_missing: float = 0.0,
) -> list[AlpacaVerdict] | list[ArenaGame]:
    """Judge all questions of a benchmark; returns the verdicts in the order of its questions, also those it lacks.

    Raises:
        ValueError: if the completions do not match the questions, or more than the share `most_missing` of the verdicts
            is missing (the error names them).
    """
    if isinstance(protocol, AlpacaProtocol):
        return judge_alpaca(questions, completions, protocol, endpoint, most_missing)
    return judge_arena(questions, completions, protocol, endpoint, most_missing)


def missing(verdicts: Sequence[AlpacaVerdict] | Sequence[ArenaGame]) -> list[str]:
    """The rows, and of Arena-Hard the games, that have no verdict."""
    return [
        verdict.id if isinstance(verdict, AlpacaVerdict) else f"{verdict.id} game {verdict.game}"
        for verdict in verdicts
        if not verdict.judged
    ]


def lacking(protocol: JudgedProtocol, verdicts: Sequence[AlpacaVerdict] | Sequence[ArenaGame]) -> list[str]:
    """A warning that names the missing verdicts; none where there is none."""
    names = missing(verdicts)
    return [f"{protocol.name}: no verdict for {listed(names)}, left out of the score"] if names else []


def judged_by(protocol: JudgedProtocol) -> dict[str, str]:
    """The protocol's title, the model that it asks for as the judge, and whose answers are the reference."""
    return {"title": protocol.name, "model": protocol.judge, "baseline": protocol.baseline}
