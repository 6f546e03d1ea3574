"""Wrong input of a user: one line for each mistake, with what is valid and what was probably meant."""

import difflib
from collections.abc import Iterable

USAGE = 2
"""The exit code of a command that was given wrong input, and of no other failure."""


class Mistake(ValueError):
    """The command line or a file of conf/ is wrong, one line per mistake; nothing was started."""


def choose(name: str, valid: Iterable[str]) -> str:
    """What to write instead of a wrong name: the nearest of the valid ones, if any is near, and all of them."""
    names = list(valid)
    near = difflib.get_close_matches(name, names, 1, 0.55)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}choose from {', '.join(names) or 'none'}"
