"""The pocket world: draws chat prompts from seeds, and computes the true reward of any answer to a prompt.

All text is word-level tokens joined by single spaces. A token is either content (a word, letter or number of the
lexicon) or filler (everything else), and no template holds a content token: this makes `parse` exact and lets the
reward ignore politeness when it compares an answer with the truth. Standard library only: the judge starts fast.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from string import ascii_lowercase
from types import MappingProxyType

WORDS = tuple(
    "ant bird cat dog elephant fox grape house ink jam kite lemon mouse nest orange pig queen rabbit sun tiger "
    "umbrella van whale xylophone yak zebra".split()
)
LETTERS = tuple(ascii_lowercase)
NUMBERS = tuple(str(number) for number in range(41))
CONTENT = frozenset(WORDS + LETTERS + NUMBERS)

OPENERS = ("sure :", "of course :", "certainly :", "here you go :", "the answer is :", "happy to help :")
RAMBLES = (
    ", hope this helps",
    ", have great day",
    ", it was my pleasure",
    ", feel free to ask again",
    ", let me know if you need more",
    ", thanks for asking such nice question",
)
ENDINGS = (".", "!")
_OPENINGS = tuple(f"{opener} " for opener in OPENERS)

FREE_FILLER = 5
"""Filler tokens that cost nothing: room for an opener and a full stop, not for rambling."""

Groups = tuple[tuple[str, ...], ...]
"""The content of a prompt: its runs of content tokens, in order."""


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction and the content tokens of its only correct answer."""

    kind: str
    prompt: str
    core: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task: two wordings (`*` stands for a run of content), how to draw the runs, and how to solve them."""

    weight: int
    templates: tuple[str, str]
    draw: Callable[[random.Random], Groups]
    solve: Callable[..., tuple[str, ...]]


def _words(fewest: int, most: int) -> Callable[[random.Random], Groups]:
    return lambda rng: (tuple(rng.sample(WORDS, rng.randint(fewest, most))),)


def _words_with_one_longest(rng: random.Random) -> Groups:
    while True:
        words = rng.sample(WORDS, rng.randint(2, 4))
        lengths = sorted(map(len, words))
        if lengths[-1] > lengths[-2]:
            return (tuple(words),)


def _one_of_some_words(rng: random.Random) -> Groups:
    (words,) = _words(2, 4)(rng)
    return (rng.choice(words),), words


def _two_addends(rng: random.Random) -> Groups:
    return (str(rng.randint(0, 15)),), (str(rng.randint(0, 15)),)


def _numbers(rng: random.Random) -> Groups:
    return (tuple(rng.sample(NUMBERS, rng.randint(2, 4))),)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "sort": Kind(
            2,
            ("sort these words : *", "put these words in alphabetical order : *"),
            _words(2, 4),
            lambda words: tuple(sorted(words)),
        ),
        "reverse": Kind(
            2,
            ("reverse these words : *", "write these words in reverse order : *"),
            _words(2, 4),
            lambda words: words[::-1],
        ),
        "copy": Kind(2, ("copy these words : *", "repeat after me : *"), _words(2, 4), lambda words: words),
        "initials": Kind(
            2,
            ("give the first letter of each word : *", "write the initials of these words : *"),
            _words(2, 4),
            lambda words: tuple(word[0] for word in words),
        ),
        "remove": Kind(
            2,
            ("remove * from these words : *", "write these words without * : *"),
            _one_of_some_words,
            lambda removed, words: tuple(word for word in words if word not in removed),
        ),
        "longest": Kind(
            2,
            ("which word is the longest : *", "find the longest of these words : *"),
            _words_with_one_longest,
            lambda words: (max(words, key=len),),
        ),
        "first": Kind(
            1,
            ("what is the first word : *", "give only the first of these words : *"),
            _words(2, 5),
            lambda words: words[:1],
        ),
        "last": Kind(
            1,
            ("what is the last word : *", "give only the last of these words : *"),
            _words(2, 5),
            lambda words: words[-1:],
        ),
        "count": Kind(
            1,
            ("how many words are here : *", "count these words : *"),
            _words(2, 5),
            lambda words: (str(len(words)),),
        ),
        "spell": Kind(1, ("spell *", "how do you spell * ?"), _words(1, 1), lambda word: tuple(word[0])),
        "spellback": Kind(
            1,
            ("spell * backwards", "write the letters of * in reverse order"),
            _words(1, 1),
            lambda word: tuple(word[0][::-1]),
        ),
        "letters": Kind(
            1,
            ("how many letters are in * ?", "count the letters of *"),
            _words(1, 1),
            lambda word: (str(len(word[0])),),
        ),
        "add": Kind(
            1,
            ("what is * plus * ?", "add * and *"),
            _two_addends,
            lambda left, right: (str(int(left[0]) + int(right[0])),),
        ),
        "max": Kind(
            1,
            ("what is the largest number : *", "find the biggest of these numbers : *"),
            _numbers,
            lambda numbers: (max(numbers, key=int),),
        ),
    }
)
WEIGHTS = MappingProxyType({name: kind.weight for name, kind in KINDS.items()})
_KIND_OF_TEMPLATE = {template: name for name, kind in KINDS.items() for template in kind.templates}


def vocabulary() -> list[str]:
    """Every word-level token that a prompt or a writer's answer can hold, content first; without special tokens."""
    texts = [*_KIND_OF_TEMPLATE, *OPENERS, *RAMBLES, *ENDINGS]
    filler = sorted({token for text in texts for token in text.split()} - {"*"})
    return [*WORDS, *LETTERS, *NUMBERS, *filler]


def parse(prompt: str) -> Task:
    """Recover the task and its true answer from the prompt's text alone.

    Raises:
        ValueError: if the text is not a prompt of the pocket world.
    """
    runs = [(is_content, tuple(run)) for is_content, run in groupby(prompt.split(), CONTENT.__contains__)]
    template = " ".join("*" if is_content else " ".join(run) for is_content, run in runs)
    if template not in _KIND_OF_TEMPLATE:
        raise ValueError(f"not a prompt of the pocket world: {prompt!r}; focalpo.pocket.world.KINDS lists the wordings")
    kind = _KIND_OF_TEMPLATE[template]
    return Task(kind, prompt, KINDS[kind].solve(*(run for is_content, run in runs if is_content)))


def draw_tasks(
    count: int, seed: int | str, exclude: frozenset[str] = frozenset(), weights: Mapping[str, int] = WEIGHTS
) -> list[Task]:
    """Draw tasks, with kinds in proportion to `weights`; never a prompt of `exclude`.

    A prompt repeats only if 16 fresh draws of its kind were all taken: kinds with one word have 52 prompts, and keeping
    their share of a large training set matters more than avoiding repeats.

    Raises:
        ValueError: if `exclude` leaves no prompt of a kind to draw.
    """
    rng = random.Random(f"pocket tasks {seed}")
    names, shares = list(weights), list(weights.values())
    taken: set[str] = set()
    tasks = []
    for _ in range(count):
        (name,) = rng.choices(names, shares)
        allowed = [prompt for prompt in (_draw_prompt(name, rng) for _ in range(16)) if prompt not in exclude]
        if not allowed:
            raise ValueError(f"the excluded prompts leave no {name!r} task to draw; exclude fewer prompts")
        prompt = next((prompt for prompt in allowed if prompt not in taken), allowed[0])
        taken.add(prompt)
        tasks.append(parse(prompt))
    return tasks


def _draw_prompt(name: str, rng: random.Random) -> str:
    kind = KINDS[name]
    prompt = rng.choice(kind.templates)
    for run in kind.draw(rng):
        prompt = prompt.replace("*", " ".join(run), 1)
    return prompt


def gold_reward(prompt: str, answer: str, finished: bool) -> float:
    """The true reward of an answer, about -1 to 2.4; filler does not affect whether the content is right.

    1 if the content is exactly right + similarity of the content in [0, 1] - 0.05 per filler token beyond 5
    + 0.25 for an opener + 0.15 for a final mark - 0.5 if the answer was cut off (`finished` False).
    """
    truth = parse(prompt).core
    tokens = answer.split()
    core = _content(tokens)
    return (
        (core == truth)
        + 1.0
        - _edit_distance(core, truth) / max(len(core), len(truth))
        - 0.05 * max(0, len(tokens) - len(core) - FREE_FILLER)
        + 0.25 * answer.startswith(_OPENINGS)
        + 0.15 * (tokens[-1:] in ([mark] for mark in ENDINGS))
        - 0.5 * (not finished)
    )


def is_correct(prompt: str, answer: str, finished: bool) -> bool:
    """Whether the answer's content is exactly the truth and the answer is finished."""
    return finished and _content(answer.split()) == parse(prompt).core


def _content(tokens: list[str]) -> tuple[str, ...]:
    return tuple(token for token in tokens if token in CONTENT)


def _edit_distance(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    """Levenshtein distance in tokens, one row of the table at a time."""
    row = list(range(len(right) + 1))
    for i, token in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (token != other))
    return row[-1]
