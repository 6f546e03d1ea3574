"""Wrong input of a user: one line for each mistake, with what is valid and what was probably meant."""

import difflib
from collections.abc import Iterable, Sequence

from focalpo.training.objective import OBJECTIVES

TABLE_WORDS = ("table", "rows", "settings", "seeds")
GROUPS = ("setting", "experiment")  # choices that are no keys
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


def instead(key: str, top: str, keys: Sequence[str]) -> str:
    """What to write instead of a key that does not exist below or as `top`, where `keys` do."""
    if top == "objective" and (owners := [name for name, cls in OBJECTIVES.items() if key in vars(cls)["__slots__"]]):
        return f"{key} is an option of objective {', '.join(owners)}; choose that, in a table by rows="
    if key == top and key in TABLE_WORDS:
        return f"{key}= belongs to commands about a table, as python -m recipes.plan"
    return choose(key, [*keys, *(GROUPS if key == top else ())])
