"""Hydra's flags as these commands answer them: help, the composed configuration, further folders of configuration.

A command line is split into flags, which end here, and overrides KEY=VALUE, which compose the configuration.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from focalpo.config.compose import folders_of, plain
from focalpo.config.mistakes import Mistake, choose
from focalpo.config.overrides import SEARCHPATH, spelled

FLAGS = """flags
  --help, -h             show this
  --info, -i             show where the configuration is read from, and its groups
  --cfg, -c job          print the composed configuration as YAML, and run nothing; --package, -p KEY: this part of it
  --config-dir, -cd DIR  read configuration files from DIR too, as hydra.searchpath=[DIR] does"""
SEARCH = "runs one search per row: python -m recipes.sweep KEY=A,B tries every combination of the values"


class Parser(argparse.ArgumentParser):
    """One that tells what is wrong in a line of its own, without its usage."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message}; --help lists the flags")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags ask for, and the overrides left when those are answered."""

    help: bool
    info: bool
    cfg: bool
    package: str | None
    overrides: list[str]


def asked(arguments: Sequence[str], searches: bool = False) -> Asked:
    """Read Hydra's flags; a search takes the flag of Hydra's multirun, which it is.

    Raises:
        ValueError: for a flag whose value is wrong or missing, or a folder that is none.
    """
    parser = Parser(add_help=False, allow_abbrev=False, prog="")
    for flag in (("--help", "-h"), ("--info", "-i"), ("--multirun", "-m"), ("--resolve",)):
        parser.add_argument(*flag, action="store_true")
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    flags, overrides = parser.parse_known_args(list(arguments))
    if flags.cfg not in (None, "job"):
        raise Mistake(f"--cfg {flags.cfg}: there is no configuration of Hydra's own here; write --cfg job")
    if flags.multirun and not searches:
        raise Mistake(f"--multirun is not read: a command runs one configuration; recipes.sweep {SEARCH}")
    missing = [each for each in flags.config_dir if not Path(each).is_dir()]
    if missing:
        raise Mistake(f"--config-dir {missing[0]} is not a folder; correct the path")
    found = ",".join(str(Path(each).absolute()) for each in flags.config_dir)
    searched = [f"{SEARCHPATH}=[{spelled('', found)[1:]}]"] if found else []
    return Asked(flags.help, flags.info, flags.cfg == "job", flags.package, [*overrides, *searched])


def help_text(documentation: str, overrides: Sequence[str]) -> str:
    """What a command does, its flags, and the choices of every group."""
    return f"{documentation.strip()}\n\n{FLAGS}\n\n{groups(overrides)}\n\nany key of `--cfg job` is set by KEY=VALUE"


def info_text(overrides: Sequence[str]) -> str:
    """Where the configuration is read from, first match first, and the choices of every group."""
    return "\n".join(["configuration", *(f"  {each}" for each in folders_of(overrides)), "", groups(overrides)])


def groups(overrides: Sequence[str]) -> str:
    """The groups of the configuration and the choices of each, as `GROUP=CHOICE`."""
    from focalpo.training.objective import OBJECTIVES

    choices: dict[str, set[str]] = {"objective": set(OBJECTIVES)}
    for folder in folders_of(overrides):
        for path in folder.glob("*/**/*.yaml"):
            group, _, name = str(path.relative_to(folder).with_suffix("")).partition("/")
            choices.setdefault(group, set()).add(name)
    lines = [f"  {group}={', '.join(sorted(names))}" for group, names in sorted(choices.items())]
    return "\n".join(["groups and their choices", *lines])


def shown(config: Any, package: str | None) -> str:
    """A composed configuration, or the part of it at a key, as YAML.

    Raises:
        ValueError: when there is no such part.
    """
    if isinstance(config, tuple):  # a table, and the configuration of each of its rows
        table, rows = config
        config = {"table": table, "rows": {"/".join(place): each for place, each in rows.items()}}
    values = plain(config)
    for part in package.split(".") if package else ():
        if not isinstance(values, dict) or part not in values:
            valid = values if isinstance(values, dict) else ()
            raise Mistake(f"--package {package}: there is no {part}; {choose(part, valid)}")
        values = values[part]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return text.removesuffix("...\n").rstrip()
