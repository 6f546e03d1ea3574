"""Reads the file of prompts with verifiable instructions of a checked benchmark: one function per layout.

hub     JSON lines with key, prompt, instruction_id_list and kwargs, whose arguments of other kinds are null
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from focalpo.stages.reading import read_json_rows
from focalpo.stages.records import Instructed

REMEDY = "get the file of the revision that the benchmark names"


def read_instructed(name: str, layout: str, file: Path, prompts: int, kinds: Sequence[str]) -> list[Instructed]:
    """Read a benchmark's prompts, in its order.

    Raises:
        ValueError: for a layout without a reader, a row of another layout, an id that is there twice, and where the
            number of prompts or their kinds are not those of the protocol.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"{name}: layout {layout!r} is not one of {', '.join(LAYOUTS)}; correct its file in eval/")
    found = LAYOUTS[layout](file)
    if len(found) != prompts:
        raise ValueError(f"{name} has {len(found)} prompts in {file}, expected {prompts}; {REMEDY}")
    ids = [each.id for each in found]
    if len(set(ids)) != len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise ValueError(f"{file} has the prompt {twice} twice; {REMEDY}")
    present = {kind for each in found for kind in each.kinds}
    if present != set(kinds):
        more, less = sorted(present - set(kinds)), sorted(set(kinds) - present)
        raise ValueError(f"{name}: kinds {more} are in {file} alone, {less} in eval/ alone; correct 'kinds' in eval/")
    return found


def hub_rows(file: Path) -> list[Instructed]:
    """The layout of google/IFEval on the hub.

    Raises:
        ValueError: names the first row of another layout.
    """
    found = []
    for number, row in enumerate(read_json_rows(file), 1):
        try:
            kinds, arguments = row["instruction_id_list"], [_given(each) for each in row["kwargs"]]
            if not kinds or len(kinds) != len(arguments):
                raise ValueError(f"{len(kinds)} kinds, arguments of {len(arguments)}")
            if not all(isinstance(text, str) for text in (row["prompt"], *kinds)):
                raise TypeError("a prompt or kind is no text")
            found.append(Instructed(str(row["key"]), row["prompt"], kinds, arguments))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file} row {number} has another layout ({reason}); {REMEDY}") from error
    return found


def _given(arguments: dict) -> str:
    """The arguments of one instruction; those of all other kinds stand there as null."""
    return json.dumps({name: value for name, value in arguments.items() if value is not None}, sort_keys=True)


LAYOUTS: dict[str, Callable[[Path], list[Instructed]]] = {"hub": hub_rows}
