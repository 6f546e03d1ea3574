"""Ranges of values, declared where a field is: `beta: Positive`. A range is its meaning in words and its test.

Imports nothing of the project, so that losses, settings and the schema of conf/ can all declare their ranges with it.
"""

import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

Positive = Annotated[float, "a finite number > 0", lambda x: 0 < x < math.inf]
NotNegative = Annotated[float, "a finite number >= 0", lambda x: 0 <= x < math.inf]
AboveMinusOne = Annotated[float, "a finite number > -1", lambda x: -1 < x < math.inf]
Count = Annotated[int, ">= 1", lambda x: x >= 1]
CountOrNone = Annotated[int | None, ">= 1, or null", lambda x: x is None or x >= 1]
Some = Annotated[int, ">= 0", lambda x: x >= 0]
Seed = Annotated[int, "in [0, 2^32)", lambda x: 0 <= x < 1 << 32]
Probability = Annotated[float, "in (0, 1]", lambda x: 0 < x <= 1]
Share = Annotated[float, "in [0, 1)", lambda x: 0 <= x < 1]
ZeroToOne = Annotated[float, "in [0, 1]", lambda x: 0 <= x <= 1]
BelowHalf = Annotated[float, "in [0, 1/2)", lambda x: 0 <= x < 0.5]
AboveZeroBelowHalf = Annotated[float, "in (0, 1/2)", lambda x: 0 < x < 0.5]
Between = Annotated[float, "in (0, 1)", lambda x: 0 < x < 1]
NotNegativeOrNone = Annotated[float | None, "a finite number >= 0, or null", lambda x: x is None or 0 <= x < math.inf]
Text = Annotated[str, "a text that is not empty", lambda x: bool(x.strip())]
ZeroStage = Annotated[int, "0, 1, 2 or 3", lambda x: x in (0, 1, 2, 3)]
Truncation = Annotated[str, "simpo or keep_prompt", lambda x: x in ("simpo", "keep_prompt")]
TokenMeanOrSum = Annotated[str, "token_mean or sum", lambda x: x in ("token_mean", "sum")]
Dtype = Annotated[str, "float32 or bfloat16", lambda x: x in ("float32", "bfloat16")]
DtypeOrNone = Annotated[str | None, "float32 or bfloat16, or null", lambda x: x in ("float32", "bfloat16", None)]


def out_of_range(values: Any, prefix: str = "") -> Iterator[str]:
    """One line per field whose value is out of its range, in `values` and in everything that it holds."""
    if is_dataclass(values):
        for name, hint in get_type_hints(type(values), include_extras=True).items():
            if hasattr(values, name):
                yield from _found(getattr(values, name), hint, f"{prefix}{name}")
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from out_of_range(value, f"{prefix}{name}.")


def _found(value: Any, hint: Any, key: str) -> Iterator[str]:
    if get_origin(hint) is Annotated:
        hint, meaning, valid = get_args(hint)
        if not valid(value):
            yield f"{key}={'null' if value is None else repr(value)} must be {meaning}"
    if get_origin(hint) is list and get_origin(get_args(hint)[0]) is Annotated:
        for place, each in enumerate(value):
            yield from _found(each, get_args(hint)[0], f"{key}[{place}]")
    yield from out_of_range(value, f"{key}.")
