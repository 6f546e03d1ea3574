"""Commands whose arguments are words instead of overrides: how many, which of them is a folder, and what to write."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from focalpo.config.asking import Parser
from focalpo.config.mistakes import Mistake


@dataclass(frozen=True, slots=True)
class Words:
    """What a command line may hold: a number of words, and keys, KEY=VALUE.

    The word at place `folder` must be a folder or one of `names`; without such a place every word must be one of
    `names`, where there are any.
    """

    least: int
    most: float
    usage: str
    folder: int | None = None
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


WORDS = {
    "why": Words(1, 2, "python -m recipes.why ROW/SETTING/COLUMN [REPORT], or make why CELL=... REPORT=...", folder=1),
    "again": Words(1, float("inf"), "make again STAGE=KIND/NAME-KEY, as make why and runs/ show it", keys=("runs",)),
    "publish": Words(
        1, 1, "python -m recipes.publish runs/report/NAME, runs/sweep/NAME, or weights", folder=0, names=("weights",)
    ),
    "paper": Words(0, 1, "python -m recipes.paper, or python -m recipes.paper claims", names=("claims",)),
    "gpu_check": Words(0, 0, "python -m recipes.gpu_check"),
    "notebooks": Words(0, 1, "python -m recipes.notebooks TABLE, or runs/report/NAME"),
}


def words_of(command: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words of a command line, and the values of its keys.

    Raises:
        ValueError: when there are too few or too many, something else is given, or a folder does not exist.
    """
    rules = WORDS[command]
    keys = {key: value for key, given, value in (each.partition("=") for each in arguments) if given}
    words = [each for each in arguments if "=" not in each]
    unread = [each for each in words if each.startswith("-")] + [key for key in keys if key not in rules.keys]
    if unread or not rules.least <= len(words) <= rules.most:
        said = f"{' '.join(unread or words)}: run" if unread or words else "its argument is missing: run"
        raise Mistake(f"{said} {rules.usage}")
    if rules.folder is not None and len(words) > rules.folder:
        word = words[rules.folder]
        if word not in rules.names and not Path(word).is_dir():
            raise Mistake(f"{word} is not a folder; a report is one of runs/report/*")
    if rules.folder is None and rules.names and (wrong := set(words) - set(rules.names)):
        raise Mistake(f"{' '.join(sorted(wrong))}: run {rules.usage}")
    return words, keys


def annotations_of(arguments: list[str]) -> Namespace:
    """What recipes.annotations is asked to score, or with `out` to write.

    Raises:
        ValueError: when no file is named, a name is none of a file, or a flag is not known or has no effect.
    """
    parser = Parser(add_help=False, allow_abbrev=False, prog="")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--gamed", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--name")
    given = parser.parse_args(arguments)
    for path in [*given.files, given.gamed, given.questions]:
        if path is not None and not path.exists():
            raise Mistake(f"{path} is no file or folder; correct the path")
    if given.name and not given.out:
        raise Mistake("--name names the model in the files that --out writes; leave it out, or add --out FOLDER")
    if given.out and (given.gamed or given.questions or len(given.files) > 1):
        raise Mistake("--out takes one judge stage, with its benchmark's own files; leave --gamed and --questions out")
    return given
