"""Four writers of different skill: a task in, the text of an answer out.

The three sloppy ones write the demonstrations for supervised fine-tuning; all four compete in the off-policy pairs.
"""

import random
from dataclasses import dataclass
from types import MappingProxyType

from focalpo.pocket.world import (
    ENDINGS,
    LETTERS,
    NUMBERS,
    OPENERS,
    RAMBLES,
    WORDS,
    Task,
)


@dataclass(frozen=True, slots=True)
class Writer:
    """The habits of one writer.

    `corrupt` is the probability of a wrong answer, `corruptions` the most edits it may hold, `opener` and `ending` the
    probabilities of a polite start and a final mark, `rambles` the probabilities of 0, 1, 2 and 3 rambling phrases.
    """

    name: str
    corrupt: float
    corruptions: int
    opener: float
    ending: float
    rambles: tuple[float, float, float, float]


WRITERS = MappingProxyType(
    {
        writer.name: writer
        for writer in (
            Writer("weak", 0.75, 2, 0.25, 0.40, (0.30, 0.30, 0.25, 0.15)),
            Writer("mid", 0.45, 1, 0.40, 0.60, (0.45, 0.30, 0.15, 0.10)),
            Writer("good", 0.20, 1, 0.55, 0.80, (0.60, 0.30, 0.10, 0.00)),
            Writer("expert", 0.05, 1, 0.75, 0.95, (0.85, 0.15, 0.00, 0.00)),
        )
    }
)


def write(task: Task, writer: Writer, rng: random.Random) -> str:
    """Answer `task` with the habits of `writer`; equal states of `rng` give equal answers."""
    core = _corrupted(task.core, writer.corruptions, rng) if rng.random() < writer.corrupt else task.core
    opener = [rng.choice(OPENERS)] if rng.random() < writer.opener else []
    (rambles,) = rng.choices(range(4), writer.rambles)
    phrases = rng.sample(RAMBLES, rambles)
    ending = [rng.choice(ENDINGS)] if rng.random() < writer.ending else []
    return " ".join([*opener, *core, *phrases, *ending])


def _corrupted(core: tuple[str, ...], most: int, rng: random.Random) -> tuple[str, ...]:
    """Make 1 to `most` edits, redrawn if they cancel out or change nothing: the result is always wrong."""
    while True:
        wrong = core
        for _ in range(rng.randint(1, most)):
            wrong = _edited(wrong, rng)
        if wrong != core:
            return wrong


def _edited(core: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """Replace, insert, drop or swap one token; a one-token answer is never emptied."""
    at = rng.randrange(len(core))
    token = rng.choice(next(family for family in (WORDS, LETTERS, NUMBERS) if core[at] in family))
    edits = [(*core[:at], token, *core[at + 1 :]), (*core[:at], token, *core[at:])]
    if len(core) > 1:
        swap = rng.randrange(len(core) - 1)
        edits += [
            core[:at] + core[at + 1 :],
            (*core[:swap], core[swap + 1], core[swap], *core[swap + 2 :]),
        ]
    return rng.choice(edits)
