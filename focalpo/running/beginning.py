"""What happens before a command imports anything heavy: Ctrl-C, Hydra's flags, and every check of its command line.

A recipe's own imports may take seconds (torch, transformers); a typing mistake is reported before them.
"""

import ast
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from focalpo.running.stopping import STOPPED

TABLES = ("reproduce", "plan", "status", "cancel", "doctor", "rescore", "calibrate")
SINGLE = ("pairs", "train", "generate", "judge", "check", "capability")
OWN_FLAGS = {"reproduce": ["--quiet"], "duels": ["--plan", "--simulate"]}


def begin(recipes: Path) -> None:
    """Answer the command line of `python -m recipes.NAME` as far as it needs no recipe; else return.

    Called while the package of recipes is imported: Python has not yet replaced the -m by the path of the recipe.
    """
    if sys.argv[0] != "-m":
        return  # imported by something else, as by a test or by a stage's own process
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _stop)
    name = next((each.partition("recipes.")[2] for each in sys.orig_argv if "recipes." in each), "")
    recipe = recipes / f"{name}.py"
    if name:
        _answer(name, recipe)
        from focalpo.running.command import leave_to_slurm

        leave_to_slurm(name)


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(1)  # an import that is interrupted might swallow an exception


def _answer(name: str, recipe: Path) -> None:
    from focalpo.config.mistakes import USAGE

    try:
        text = answer(name, recipe, sys.argv[1:])
    except ValueError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(USAGE)
    if text is not None:
        print(text)
        sys.exit()


def answer(name: str, recipe: Path, arguments: list[str]) -> str | None:
    """What the flags ask for; None when there is something to run, after its command line was checked.

    Raises:
        ValueError: when the command line is wrong.
    """
    from focalpo.config.asking import asked, help_text, info_text, shown
    from focalpo.config.mistakes import Mistake, choose
    from focalpo.running.words import WORDS

    if not recipe.is_file():
        raise Mistake(f"there is no recipes.{name}; {choose(name, _commands(recipe.parent))}")
    if recipe not in _commands(recipe.parent).values():
        raise Mistake(f"recipes.{name} is a stage and no command; recipes.reproduce runs it for the rows of a table")
    found = asked(arguments, searches=name == "sweep")
    if found.help:
        return help_text(ast.get_docstring(ast.parse(recipe.read_text())) or "", found.overrides)
    if found.info:
        return info_text(found.overrides)
    sys.argv[1:] = found.overrides
    own = OWN_FLAGS.get(name, [])
    compose = _composer(name)
    composed = compose([each for each in found.overrides if each not in own]) if compose else None
    if found.cfg and (compose is None or name in (*WORDS, "sweep", "score_annotations")):
        raise Mistake(f"recipes.{name} has no one configuration to show; leave --cfg out")
    return shown(composed, found.package) if found.cfg else None


def _commands(recipes: Path) -> dict[str, Path]:
    """The recipes that are commands, by name."""
    return {path.stem: path for path in sorted(recipes.glob("*.py")) if '__name__ == "__main__"' in path.read_text()}


def _composer(name: str) -> Callable[[list[str]], Any] | None:
    """The function that composes a command's configuration from its overrides, or checks its words."""
    from focalpo.config.compose import compose, compose_calibrate_judge
    from focalpo.planning.bench import planned_bench
    from focalpo.planning.duels import composed_duels
    from focalpo.planning.search import search
    from focalpo.planning.table import about_table, composed_table, naming_table
    from focalpo.running.words import WORDS, annotations_of, words_of

    if name == "sweep":
        return search
    if name == "dynamics":
        return lambda arguments: composed_table(arguments, only="files")
    if name == "cancel":  # names of stages, besides
        return lambda arguments: composed_table([each for each in arguments if "=" in each or each.startswith("-")])
    if name == "dashboard":
        return lambda arguments: composed_table(naming_table(arguments))
    if name == "anchors":
        return lambda arguments: composed_table(about_table(arguments, "author"))
    if name == "duels":
        return composed_duels
    if name == "bench":
        return lambda arguments: planned_bench(arguments)[1]
    if name == "score_annotations":
        return annotations_of
    if name in WORDS:
        return lambda arguments: words_of(name, arguments)
    if name in SINGLE:
        return compose
    if name in TABLES:
        return composed_table
    return compose_calibrate_judge if name == "calibrate_judge" else None
