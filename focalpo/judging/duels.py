"""Duels: two rows' answers to the same prompts, judged against each other in both orders under a benchmark's protocol.

    answers of both rows --the second row's as the reference, both orders--> task of the protocol's kind
    verdicts of the task --> DuelGame, two per prompt

Arena-Hard plays both orders of a pair itself. alpaca_eval draws the order from the instruction alone, so each pair is
judged once with either row as the model. Equal answers are a tie, and nobody is asked about them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from focalpo.judging.alpaca_eval import model_shown_first
from focalpo.judging.answers import in_benchmark_order
from focalpo.judging.protocol import AlpacaProtocol, JudgedProtocol
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, DuelGame, Question

OPPONENT = "the other row's answers"
"""In the place of the protocol's baseline."""
TURNED = " turned"
"""Ends the id of a pair in which the second row is the model."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of two rows to one question."""

    question: Question
    first: Completion
    second: Completion

    @property
    def same(self) -> bool:
        return self.first.text == self.second.text

    def task(self) -> tuple[Question, Completion]:
        """The first row's answer, with the second row's as the reference."""
        return replace(self.question, reference=self.second.text), self.first

    def turned(self) -> tuple[Question, Completion]:
        """The second row's answer, with the first row's as the reference."""
        name = self.question.id + TURNED
        return replace(self.question, id=name, reference=self.first.text), replace(self.second, id=name)


def pairs_of(
    questions: Sequence[Question], first: Sequence[Completion], second: Sequence[Completion], protocol: JudgedProtocol
) -> list[Pair]:
    """The answers of two rows by question, in the order of the questions.

    Raises:
        ValueError: if the completions of either do not match the questions.
    """
    sides = (in_benchmark_order(questions, completions, protocol.prompts) for completions in (first, second))
    return [Pair(*each) for each in zip(questions, *sides, strict=True)]


def task_of(pairs: Sequence[Pair], protocol: JudgedProtocol) -> tuple[JudgedProtocol, list[Question], list[Completion]]:
    """What is judged: the protocol for as many rows as are asked about, the questions and the completions."""
    asked = [pair for pair in pairs if not pair.same]
    rows = [pair.task() for pair in asked]
    if isinstance(protocol, AlpacaProtocol):
        rows += [pair.turned() for pair in asked]
    sized = replace(protocol, prompts=len(rows), baseline=OPPONENT)
    return sized, [question for question, _ in rows], [answer for _, answer in rows]


def games_of(pairs: Sequence[Pair], verdicts: Sequence[AlpacaVerdict] | Sequence[ArenaGame]) -> list[DuelGame]:
    """Both games of every pair, the one in which the first row's answer is shown first before the other."""
    found: dict[tuple[str, bool], tuple[float, int]] = {}
    shown_first = {pair.question.id: model_shown_first(pair.question.prompt[-1]["content"]) for pair in pairs}
    for verdict in verdicts:
        if isinstance(verdict, ArenaGame):
            found[verdict.id, verdict.game == 2] = verdict.result, verdict.weight  # game 1 shows the reference first
            continue
        name, turned = verdict.id.removesuffix(TURNED), verdict.id.endswith(TURNED)
        result = 2 - verdict.preference if turned else verdict.preference - 1
        found[name, shown_first[name] != turned] = result, int(verdict.judged)

    def game(pair: Pair, leads: bool) -> DuelGame:
        result, weight = (0.5, 1) if pair.same else found[pair.question.id, leads]
        return DuelGame(pair.question.id, leads, pair.same, result, weight, len(pair.first.text), len(pair.second.text))

    return [game(pair, leads) for pair in pairs for leads in (True, False)]
