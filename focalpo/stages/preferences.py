"""The one meaning of a preference in AlpacaEval's annotations, for pairs to train on and for files to score.

    1 .. 2    1: output_1 is better, 2: output_2 is better, 1.5: a draw
    0         a draw too: what the library wrote for draws before it wrote 1.5
    None, NaN, ""    never judged

Nothing else is a preference: no boolean, no text, no list. Other judges write 0 .. 1, where 0 and 1 mean the opposite
ends; a file that can be read that way is refused, not guessed.
"""

import math
from collections.abc import Iterable
from typing import TypeGuard

LOWEST, DRAW, HIGHEST = 1.0, 1.5, 2.0


def preference_of(value: object) -> float:
    """A preference in [1, 2], with 1.5 for a draw; NaN if the row was never judged.

    Raises:
        ValueError: if the value is no preference; the message says why.
    """
    if value is None or value == "" or is_nan(value):
        return math.nan
    if not is_number(value):
        raise ValueError(f"preference {_shown(value)} is no number")
    if is_outside(value):
        raise ValueError(f"preference {_shown(value)} is not in [1, 2]")
    return float(value) or DRAW


def is_outside(value: object) -> bool:
    """Whether a value is a number and no preference, so that its file must be on another scale."""
    return is_number(value) and value != 0 and not LOWEST <= value <= HIGHEST


def check_scale(values: Iterable[object], where: str) -> None:
    """Check that the preferences of one file are not on the scale 0 .. 1.

    A file of zeros and ones could mean either scale: old draws and wins of output_1, or losses and wins of output_2.

    Raises:
        ValueError: if every number is in [0, 1] and one is below 1.
    """
    numbers = [value for value in values if is_number(value)]
    if numbers and all(0 <= value <= 1 for value in numbers) and min(numbers) < 1:
        raise ValueError(
            f"{where}: every preference is in 0 .. 1, but the scale is 1 (output_1 is better) to 2 (output_2); "
            "if 1 means that output_2 is better, add 1 to each, and if 0 is a draw, write 1.5"
        )


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def is_nan(value: object) -> bool:
    """Whether a value is the float NaN."""
    return isinstance(value, float) and math.isnan(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
