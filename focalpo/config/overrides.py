"""Command-line overrides KEY=VALUE in Hydra's grammar, in which many characters of a path have a meaning of their own.

what the user typed --meant--> key, text --spelled--> an override that Hydra reads as exactly this text
"""

import difflib
import shlex
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from focalpo.config.mistakes import Mistake

SEARCHPATH = "hydra.searchpath"
"""The one key of Hydra's own that is read: folders of further configuration files."""
HYDRAS_OWN = "hydra."
"""The beginning of overrides for `hydra.main`, which nothing here reads."""
FLAGS = ("--help", "--info", "--cfg", "--package", "--config-dir", "--quiet")


def meant(override: str) -> tuple[str, str]:
    """The key of an override, and its value as text: without quotes around it, and with `~/` as the home folder."""
    key, _, text = override.partition("=")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return key, str(Path(text).expanduser()) if text.startswith("~/") else text


def spelled(key: str, text: str) -> str:
    """The override that gives a key this text, whatever characters it has."""
    quote = Quote.single if '"' in text and "'" not in text else Quote.double
    literal = text.replace("${", r"\${")  # no interpolation
    return f"{key}={QuotedString(literal, quote).with_quotes()}"


def advice(override: str) -> str:
    """One line: an override whose value is not read as its text, and how to write it in a shell."""
    shown = shlex.quote(spelled(*meant(override)))
    return f"{override}: its value is not read as plain text; quote it for Hydra and for the shell: {shown}"


def unread(override: str) -> str | None:
    """Why an argument is no override of a key, in one line; None if it is one."""
    if override.startswith(f"{SEARCHPATH}="):
        missing = [path for path in searched(override) if not path.is_dir()]
        return f"{SEARCHPATH}: {missing[0]} is not a folder; correct the path" if missing else None
    if override.startswith("-"):
        near = difflib.get_close_matches(override.partition("=")[0], FLAGS, 1, 0.7)
        return f"{override!r} is not read; " + (f"did you mean {near[0]}?" if near else "--help lists the flags")
    if "=" not in override and not override.startswith("~"):
        return f"{override!r} is not KEY=VALUE; conf/ holds the keys"
    if override.startswith(HYDRAS_OWN) or override.startswith("="):
        return f"{override!r} is not read; an argument is KEY=VALUE with a key of conf/"
    key, text = meant(override)
    if text.replace(" ", "") == "{}":
        return f"{override} changes nothing, as mappings are merged; remove an entry by '~{key}.NAME'"
    return None


def searched(override: str) -> list[Path]:
    """The folders of an override `hydra.searchpath=[DIR]`.

    Raises:
        ValueError: when it is no list of folders.
    """
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException as error:
        raise Mistake(f"{override}: its value cannot be read; write {SEARCHPATH}=[DIR,DIR]") from error
    folders = [str(each) for each in value] if isinstance(value, list) else [""]
    if not all(folders):
        raise Mistake(f"{override} is not a list of folders; write {SEARCHPATH}=[DIR,DIR]")
    return [Path(each.removeprefix("file://").strip("'\"")) for each in folders]


def below(override: str, wrong: set[str]) -> bool:
    """Whether what an override may set depends on a choice that could not be made: not its own mistake."""
    group = override.lstrip("+~").partition(".")[0]
    if wrong & {"setting", "experiment"}:
        wrong = wrong | {"model", "data", "objective", "lora", "judge", "check", "generate", "capability"}
    return group in wrong


def changed(override: str, value: object) -> bool:
    """Whether an override gave a key, whose value is now `value`, another text than the one typed: `runs=1e3`."""
    key, text = meant(override)
    if not isinstance(value, str) or value == text:
        return False
    read = OverridesParser.create().parse_override(override).value()
    return isinstance(read, int | float) or text != text.strip()


def expand(search: Sequence[str], overrides: Sequence[str]) -> list[list[str]]:
    """The points of a search, expanded as by Hydra's multirun: one list of plain overrides per point.

    An override replaces the entry of the search with the same key, and may itself be a sweep: `a=1,2`, `range(3)`.

    Raises:
        ValueError: when an override cannot be parsed.
    """
    searched, given = list(_parsed(search)), list(_parsed(overrides))
    keys = {each.get_key_element() for each in given}
    merged = [each for each in searched if each.get_key_element() not in keys] + given
    choices = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [str(each.input_line)]
        for each in merged
    ]
    return [list(point) for point in product(*choices)]


def _parsed(overrides: Sequence[str]) -> Iterator:
    parser = OverridesParser.create()
    for override in overrides:
        try:
            yield parser.parse_override(override)
        except HydraException as error:
            raise Mistake(unread(override) or advice(override)) from error
