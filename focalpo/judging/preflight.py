"""One call to a judge before anything depends on it, with the request that the protocol makes.

A retired model, refused fields, missing log-probs or token counts are found by the first call. A judge that answers but
gives no verdict has a few pairs to give one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from focalpo.judging.alpaca_eval import NO_LOGPROBS, judge_alpaca
from focalpo.judging.arena_hard import judge_arena
from focalpo.judging.endpoint import Endpoint, EndpointError
from focalpo.judging.protocol import AlpacaProtocol, JudgedProtocol
from focalpo.judging.recording import read_attempts
from focalpo.judging.replies import OTHER_JUDGE
from focalpo.judging.sentinel import Sentinel, pairs_under
from focalpo.judging.serving import endpoint_at, is_pocket
from focalpo.stages.records import Completion, Question

PAIRS = 3
PATIENCE_SECONDS = 60.0
"""A judge that refuses everything as one too many for a minute is found here, not after an hour of waiting."""
REMEDIES = {
    NO_LOGPROBS: OTHER_JUDGE,
    "no token count": "use a server that counts tokens, for what is spent is counted,",
}


def preflights(
    tasks: Iterable[tuple[JudgedProtocol, Sequence[Question], Sequence[Completion]]],
    sentinel: Sentinel | None,
    address: str | None,
    settings: dict,
    records: Path,
) -> int:
    """`preflight` under the protocol of every benchmark, on a pair that is judged anyway; returns the calls made.

    Nothing is asked without an address, or of the pocket judge, which is a function of its arguments.
    """
    calls = 0
    if address is None or is_pocket(settings["base_url"]):
        return calls
    for protocol, questions, completions in tasks:
        answers = {answer.id: answer for answer in completions}
        own = [(question, answers[question.id]) for question in questions[:PAIRS] if question.id in answers]
        calls += preflight(protocol, pairs_under(protocol, sentinel) if sentinel else own, address, settings, records)
    return calls


def preflight(
    protocol: JudgedProtocol,
    pairs: Sequence[tuple[Question, Completion]],
    address: str,
    settings: dict,
    records: Path,
) -> int:
    """Ask for the verdict on one pair, one game of it, and for the next two pairs' if there is none; returns the calls.

    The replies are recorded, so that a run with these records does not ask again.

    Raises:
        EndpointError: in one line, if no pair gets a verdict or the judge cannot be used.
    """
    once = settings | {"concurrency": 1, "max_attempts": 1, "batch": False}
    with endpoint_at(address, once, records, patience_seconds=PATIENCE_SECONDS) as endpoint:
        for question, answer in pairs[:PAIRS]:
            try:
                _judge(question, answer, replace(protocol, prompts=1), endpoint)
                return endpoint.counts.calls
            except EndpointError:
                raise
            except ValueError:
                if endpoint.counts.calls >= PAIRS:
                    break
    outcomes = [attempt["outcome"] for attempt in read_attempts(records)]
    last = outcomes[-1] if outcomes else "no call was made"
    remedy = next((remedy for start, remedy in REMEDIES.items() if last.startswith(start)), "look into its replies")
    raise EndpointError(
        f"judge {endpoint.name} gives no verdict under {protocol.name} ({endpoint.counts.calls} calls, last: {last}); "
        f"{remedy} and run again"
    )


def _judge(question: Question, answer: Completion, protocol: JudgedProtocol, endpoint: Endpoint) -> None:
    if isinstance(protocol, AlpacaProtocol):
        judge_alpaca([question], [answer], protocol, endpoint)
    else:
        judge_arena([question], [answer], protocol, endpoint, games=(1,))
