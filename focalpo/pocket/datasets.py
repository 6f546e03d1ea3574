"""The pocket data sets: draws demonstrations and preference pairs from seeds. (Benchmark files: benchmarks.py.)

Every function is pure. Tasks, writers, rating noise and label flips have separate random streams, so that changing the
label noise changes the flips and nothing else: the pairs flipped at 0.1 are among those flipped at 0.2.
"""

import random
from collections.abc import Sequence, Set
from dataclasses import replace

from focalpo.pocket.world import Task, draw_tasks, gold_reward
from focalpo.pocket.writers import WRITERS, write
from focalpo.stages.records import Completion, Demonstration, Messages, Pair

SFT_MIX = {"weak": 7, "mid": 9, "good": 4}
RATING_NOISE = 0.3
"""Standard deviation of the rater's error, in units of the gold reward; 0.3 is also the judge's temperature."""


def as_messages(prompt: str) -> Messages:
    """Wrap a prompt of the pocket world in a chat of one user turn."""
    return [{"role": "user", "content": prompt}]


def pretraining_demonstrations(count: int, seed: int, exclude: frozenset[str] = frozenset()) -> list[Demonstration]:
    """Demonstrations with bare, correct answers, which teach the skills before the sloppy ones teach the style."""
    tasks = draw_tasks(count, f"pretraining {seed}", exclude)
    return [
        Demonstration(f"pretraining-{seed}-{index}", as_messages(task.prompt), " ".join(task.core))
        for index, task in enumerate(tasks)
    ]


def sft_demonstrations(count: int, seed: int, exclude: frozenset[str] = frozenset()) -> list[Demonstration]:
    """Sloppy demonstrations by the weak, mid and good writers, in the proportion 7 : 9 : 4."""
    tasks = draw_tasks(count, f"sft {seed}", exclude)
    rng = random.Random(f"pocket sft writers {seed}")
    writers = rng.choices([WRITERS[name] for name in SFT_MIX], list(SFT_MIX.values()), k=count)
    return [
        Demonstration(f"sft-{seed}-{index}", as_messages(task.prompt), write(task, writer, rng))
        for index, (task, writer) in enumerate(zip(tasks, writers, strict=True))
    ]


def preference_tasks(count: int, seed: int, exclude: frozenset[str] = frozenset()) -> list[Task]:
    """The prompts of the preference pairs, for both settings: off-policy pairs here, and samples of the SFT model."""
    return draw_tasks(count, f"preferences {seed}", exclude)


def base_pairs(count: int, seed: int, label_noise: float, exclude: frozenset[str] = frozenset()) -> list[Pair]:
    """Off-policy pairs: the best of four writers' answers by a noisy rating, against a random other one.

    Prompts whose two texts are identical are dropped, so that fewer than `count` pairs may be returned.

    Raises:
        ValueError: if `label_noise` is not a probability.
    """
    writing, rating, picking = (random.Random(f"pocket pairs {stream} {seed}") for stream in ("write", "rate", "pick"))
    candidates = []
    for index, task in enumerate(preference_tasks(count, seed, exclude)):
        answers = [write(task, writer, writing) for writer in WRITERS.values()]
        ratings = [_rating(task.prompt, answer, True, rating) for answer in answers]
        best = max(range(len(answers)), key=ratings.__getitem__)
        other = picking.choice([writer for writer in range(len(answers)) if writer != best])
        candidates.append((f"base-{seed}-{index}", task.prompt, (answers[best], True), (answers[other], True)))
    return _label(candidates, seed, label_noise)


def rate_samples(samples: list[list[Completion]], seed: int, label_noise: float) -> list[Pair]:
    """On-policy pairs: the best of several completions per prompt against the worst, by a noisy rating.

    `samples` is `[prompts][completions]`; a pair has the id of its prompt's first completion. Prompts whose two texts
    are identical are dropped.

    Raises:
        ValueError: if `label_noise` is not a probability or a prompt has fewer than two completions.
    """
    rating = random.Random(f"pocket samples rate {seed}")
    candidates = []
    for completions in samples:
        if len(completions) < 2:
            names = [completion.id for completion in completions]
            raise ValueError(f"a pair needs at least two completions of a prompt, got {names}; sample more per prompt")
        prompt = completions[0].prompt[-1]["content"]
        ratings = [_rating(prompt, answer.text, answer.finished, rating) for answer in completions]
        best, worst = (completions[ratings.index(extreme(ratings))] for extreme in (max, min))
        candidates.append((completions[0].id, prompt, (best.text, best.finished), (worst.text, worst.finished)))
    return _label(candidates, seed, label_noise)


Answer = tuple[str, bool]
"""The text of an answer, and whether it is finished."""


def _rating(prompt: str, answer: str, finished: bool, rng: random.Random) -> float:
    return gold_reward(prompt, answer, finished) + rng.gauss(0, RATING_NOISE)


def _label(candidates: list[tuple[str, str, Answer, Answer]], seed: int, label_noise: float) -> list[Pair]:
    """Turn (id, prompt, better, worse) by rating into pairs: flip at random, drop equal texts, mark wrong labels."""
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be in [0, 1], got {label_noise}")
    rng = random.Random(f"pocket flips {seed}")
    pairs = []
    for id_, prompt, chosen, rejected in candidates:
        # Drawn for every candidate, so that the label noise changes no other draw.
        if rng.random() < label_noise:
            chosen, rejected = rejected, chosen
        if chosen[0] == rejected[0]:
            continue
        mislabelled = gold_reward(prompt, *chosen) < gold_reward(prompt, *rejected)
        pairs.append(Pair(id_, as_messages(prompt), chosen[0], rejected[0], mislabelled))
    return pairs


def hard_labels(pairs: Sequence[Pair], false: int, seed: int, cut: Set[tuple[str, str]] = frozenset()) -> list[Pair]:
    """The same pairs with exactly `false` false labels, all on the hardest: those with the smallest true reward gap.

    Their annotator cannot tell the answers of a hard pair apart and tosses a coin, and never errs on others: in the
    order of the gap, one label of each two neighbours is false. Labels that are false for a smaller number are among
    those for a larger one. Equally good answers have no false label.

    Args:
        cut: prompts with those of their answers that are not finished.

    Raises:
        ValueError: where coins cannot make so many labels false.
    """
    rng = random.Random(f"pocket coins {seed}")
    true, order = [], []
    for place, pair in enumerate(pairs):
        prompt = pair.prompt[-1]["content"]
        rewards = [gold_reward(prompt, text, (prompt, text) not in cut) for text in (pair.chosen, pair.rejected)]
        gap = round(rewards[0] - rewards[1], 9)
        true.append(_exchanged(pair, False) if gap < 0 else replace(pair, mislabelled=False))
        if gap:
            order.append((abs(gap), rng.random(), place))  # gaps repeat: those are in a random order
    order.sort()
    wrong = [rng.choice(couple)[2] for couple in zip(order[::2], order[1::2], strict=False)]
    if false > len(wrong):
        raise ValueError(f"coins make {len(wrong)} of {len(pairs)} labels false, not {false}; lower data.label_noise")
    for place in wrong[:false]:
        true[place] = _exchanged(true[place], True)
    return true


def _exchanged(pair: Pair, mislabelled: bool) -> Pair:
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, mislabelled=mislabelled)
