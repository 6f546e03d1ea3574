"""Two rows of the pocket world, the first better by a known amount, as its judge sees them: for simulations.

    drafts of writers --log_odds against the reference--> a row's odds per prompt; in a duel, their difference
    odds + noise --a kind of verdict--> wins and battles --> terms: what each prompt adds to the score, in points

Both rows answer as trained rows of the pocket table do, winning a quarter against the reference. On a share `same` of
the prompts they give the same answer, as rows that share seed, data order and sampling; on a share `better` of them the
first row answers as the good writer. Whatever this share, the draws are the same.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalpo.pocket.benchmarks import BENCHMARK_SEED, benchmark_tasks
from focalpo.pocket.judge import MUCH, SLIGHTLY, VERDICT_NOISE, log_odds
from focalpo.pocket.world import Task, is_correct
from focalpo.pocket.writers import WRITERS, write

Array = NDArray[np.float64]
USUAL, BETTER, REFERENCE = ("weak", "mid"), ("good",), "good"
DRAFTS = 40
ORDERS = 2


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A kind of verdict: its title, the games of a row against the reference, and from log-odds and noise the results
    and weights of games.

    `noise` draws what is added to the log-odds of a game. `repeats`: equal requests get equal replies.
    """

    title: str
    games: int
    noise: Callable[[np.random.Generator, tuple[int, ...]], Array]
    of: Callable[[Array], tuple[Array, Array]]
    repeats: bool


def preferences(odds: Array) -> tuple[Array, Array]:
    """AlpacaEval's: the probability itself, from the log-probs of two names."""
    return 1 / (1 + np.exp(-odds)), np.ones_like(odds)


def labels(odds: Array) -> tuple[Array, Array]:
    """Arena-Hard's five labels; a strong one counts three times."""
    return np.where(np.abs(odds) < SLIGHTLY, 0.5, odds > 0), np.where(np.abs(odds) >= MUCH, 3.0, 1.0)


def winners(odds: Array) -> tuple[Array, Array]:
    """One winner without degrees."""
    return (odds > 0).astype(float), np.ones_like(odds)


KINDS = {
    "alpaca_eval": Verdicts("preference, of log-probs", 1, lambda _, shape: np.zeros(shape), preferences, True),
    "arena_hard": Verdicts(
        "label, of a text", 2, lambda draw, shape: draw.normal(0, VERDICT_NOISE, shape), labels, True
    ),
    # Logistic noise: the winner is drawn with the judge's probability.
    "sampled": Verdicts("winner, sampled", 1, lambda draw, shape: draw.logistic(size=shape), winners, False),
}
BENCHMARK = {"sampled": "alpaca_eval"}
"""The prompts of a kind that is no benchmark's own."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Simulated comparisons of two rows: wins and battles by prompt, [2, experiments, prompts].

    The first row's where it answers as usual, where it is better, and where it gives the second row's answer; and the
    `other` row's own, None in a duel. `luck`, uniform in [0, 1], says which prompts are which: the equal ones above
    1 - same, the better ones from 0 on. `gain`: how many more of 100 answers are correct where the first row is better.
    """

    usual: Array
    good: Array
    equal: Array
    other: Array | None
    luck: Array
    same: float
    gain: float

    def terms(self, better: float) -> Array:
        """What each prompt adds to the first row's lead, in points, where it is better on this share of the prompts.

        [experiments, prompts]; the lead is the difference of both rows' scores, in a duel the score minus 50.
        """
        assert better <= 1 - self.same
        first = np.where(self.luck >= 1 - self.same, self.equal, self.usual)
        score = _terms(np.where(self.luck < better, self.good, first))
        return score - (50.0 if self.other is None else _terms(self.other))


def compared(name: str, direct: bool, same: float, experiments: int, prompts: int, seed: int = 0) -> Comparison:
    """Simulate rows that give the same answer to a share of the prompts under one kind of verdict.

    Args:
        direct: a duel, in both orders; else both rows against the reference.
    """
    draw, kind = np.random.default_rng([seed, BENCHMARK_SEED]), KINDS[name]
    tasks = benchmark_tasks()[BENCHMARK.get(name, name)]
    (usual, correct), (good, correct_good) = (_drafts(tasks, writers) for writers in (USUAL, BETTER))
    shape = experiments, prompts
    task = draw.integers(0, len(tasks), shape)
    second, own, best = (odds[task, draw.integers(0, odds.shape[1], shape)] for odds in (usual, usual, good))
    luck, gain = draw.random(shape), 100 * (correct_good - correct)
    noise, noise_second = kind.noise(draw, (2, *shape, ORDERS if direct else kind.games))

    def games(odds: Array, noise: Array) -> Array:
        results, weights = kind.of(odds[..., None] + noise)
        return np.stack([(results * weights).sum(-1), weights.sum(-1)])

    if direct:
        tie = np.array([ORDERS / 2, ORDERS])[:, None, None]
        return Comparison(games(own - second, noise), games(best - second, noise), tie, None, luck, same, gain)
    other = games(second, noise_second)
    equal = other if kind.repeats else games(second, noise)
    return Comparison(games(own, noise), games(best, noise), equal, other, luck, same, gain)


def _drafts(tasks: list[Task], writers: tuple[str, ...]) -> tuple[Array, float]:
    """Log-odds of drafts against the reference answers, [tasks, drafts], and the share of correct drafts."""
    odds, right = [], []
    for task in tasks:
        rng = random.Random(f"rivals {writers} {task.prompt}")
        reference = write(task, WRITERS[REFERENCE], rng)
        drafts = [write(task, WRITERS[name], rng) for name in writers for _ in range(DRAFTS)]
        odds.append([log_odds(task.prompt, draft, reference) for draft in drafts])
        right += [is_correct(task.prompt, draft, True) for draft in drafts]
    return np.array(odds), float(np.mean(right))


def _terms(games: Array) -> Array:
    """What each prompt adds to 100 * sum of wins / sum of battles: linear terms whose mean is the score."""
    wins, battles = games
    score = wins.sum(1, keepdims=True) / battles.sum(1, keepdims=True)
    return 100 * (score + (wins - score * battles) / battles.mean(1, keepdims=True))
