"""YAML and command line in, validated plain objects out. Only this file and overrides.py import Hydra.

    conf/*.yaml + command line --compose--> OmegaConf, typed by schema.py --resolve--> plain objects, validated

All mistakes in a configuration are reported at once, before anything is loaded. No other package sees a Hydra config.
"""

import copy
from collections.abc import Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass, make_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from focalpo.config.bench import BenchSettings
from focalpo.config.data import SOURCES
from focalpo.config.mistakes import Mistake, choose, instead
from focalpo.config.overrides import SEARCHPATH, advice, below, changed, meant, searched, spelled, unread
from focalpo.config.problems import problems
from focalpo.config.schema import CalibrateJudgeConfig, Config, TableConfig
from focalpo.config.wording import NO_KEY, one_line
from focalpo.stages.origin import ROOT
from focalpo.stages.ranges import out_of_range
from focalpo.training.objective import OBJECTIVES

CONF = ROOT / "conf"
Shape = TypeVar("Shape")


def publish() -> None:
    """Register the schema with Hydra, and one option per objective with the fields and defaults of its class."""
    _publish(tuple(OBJECTIVES.items()))


@lru_cache(maxsize=8)
def _publish(losses: tuple[tuple[str, type], ...]) -> None:
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="calibrate_judge_schema", node=CalibrateJudgeConfig)
    store.store(group="table", name="schema", node=TableConfig)
    store.store(group="bench", name="schema", node=BenchSettings)
    for name, shape in SOURCES.items():
        store.store(group="source", name=name, node=shape)
    for name, cls in losses:
        hints = get_type_hints(cls)
        options = [(f.name, hints[f.name], MISSING if f.default is NO_DEFAULT else f.default) for f in fields(cls)]
        node = make_dataclass(f"{cls.__name__}Config", [("name", str, name), *options], slots=True)
        store.store(group="objective", name=name, node=node)


def compose(overrides: Sequence[str], base: Sequence[str] = ()) -> Config:
    """Compose conf/config.yaml with command-line overrides into validated plain objects.

    `base` holds overrides of ours that come first, as those that make a row of a table.

    Raises:
        ValueError: with one line per mistake.
    """
    return copy.deepcopy(_checked(CONF, tuple(OBJECTIVES.items()), tuple(base), tuple(overrides)))


@lru_cache(maxsize=1024)
def _checked(conf: Path, losses: tuple, base: tuple[str, ...], overrides: tuple[str, ...]) -> Config:
    """As `compose`: a command's line is checked before its imports, and its rows are not composed twice."""
    config = _compose("config", overrides, Config, base=base)
    try:
        objective_of(plain(config.objective))
        wrong = []
    except ValueError as error:
        wrong = [str(error)]
    if wrong := list(dict.fromkeys([*wrong, *problems(config)])):
        raise Mistake("\n".join(wrong))
    return config


def compose_table(name: str, overrides: Sequence[str] = ()) -> TableConfig:
    """Compose table/<name>.yaml of conf/ or of a folder that the overrides add."""
    _find("table", name, overrides)
    added = [each for each in overrides if each.startswith(SEARCHPATH)]
    return _in_range(_compose(f"table/{name}", added, TableConfig, "table"))


def _in_range(config: Shape) -> Shape:
    if wrong := list(out_of_range(config)):
        raise Mistake("\n".join(wrong))
    return config


def folders_of(overrides: Sequence[str]) -> list[Path]:
    """The folders that configuration files are read from, first match first."""
    return [CONF, *(path for each in overrides if each.startswith(SEARCHPATH) for path in searched(each))]


def _find(group: str, name: str, overrides: Sequence[str]) -> None:
    """Refuse a name of a group that has no file, with those that have one."""
    files = {path.stem for folder in folders_of(overrides) for path in (folder / group).glob("*.yaml")}
    if name not in files:
        raise Mistake(f"{group}={name}: there is no such {group}; {choose(name, sorted(files))}")


def compose_bench(name: str, overrides: Sequence[str]) -> BenchSettings:
    """Compose conf/bench/<name>.yaml with overrides of its keys."""
    _find("bench", name, ())
    prefixed = [f"~bench.{each[1:]}" if each.startswith("~") else f"bench.{each}" for each in overrides]
    return _in_range(_compose(f"bench/{name}", prefixed, BenchSettings, "bench"))


def compose_calibrate_judge(overrides: Sequence[str]) -> CalibrateJudgeConfig:
    """Compose conf/calibrate_judge.yaml with overrides of its keys."""
    return _in_range(_compose("calibrate_judge", overrides, CalibrateJudgeConfig))


def objective_of(settings: dict) -> Any:
    """The loss described by `{"name": ..., <options>}`.

    Raises:
        ValueError: for options out of range.
    """
    options = dict(settings)
    cls = OBJECTIVES.get(options.pop("name"))
    if cls is None or options.keys() != {f.name for f in fields(cls)}:  # type: ignore[arg-type]  # a dataclass
        names = ", ".join(OBJECTIVES)
        raise ValueError(f"objective.name={settings['name']} cannot be set alone; write objective=NAME, one of {names}")
    return cls(**options)


def plain(value: Any) -> Any:
    """A dataclass, list or dict as plain JSON values, as stored in a stage's settings."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def shaped(values: dict, shape: type[Shape]) -> Shape:
    """The dataclass built from plain values; the inverse of `plain`."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(shape), values))  # type: ignore[return-value]


def _compose(
    name: str, overrides: Sequence[str], shape: type[Shape], key: str | None = None, base: Sequence[str] = ()
) -> Shape:
    publish()
    strange = [line for each in overrides if (line := unread(each))]
    if strange:
        raise Mistake("\n".join(strange))
    try:
        return _composed(name, [*base, *overrides], key)
    except ValueError as first:
        # Hydra stops at the first wrong override. Trying each one together with the valid group choices finds all:
        # whether an option is valid depends on its objective.
        undotted = [each for each in overrides if "." not in each.partition("=")[0] or each.startswith(SEARCHPATH)]
        found = {each: problem for each in undotted if (problem := _problem_of(name, [*base, each], key))}
        groups = [*base] + [each for each in undotted if each not in found]
        unknown = {each.lstrip("+").partition("=")[0] for each in found}
        others = [each for each in overrides if each not in undotted and not below(each, unknown)]
        found |= {each: problem for each in others if (problem := _problem_of(name, [*groups, each], key))}
        raise Mistake(
            "\n".join(found[each] for each in dict.fromkeys(overrides) if each in found) or str(first)
        ) from first


def _composed(name: str, overrides: Sequence[str], key: str | None) -> Any:
    return _resolved(_merged(name, overrides), name, overrides, key)


def _resolved(whole: DictConfig, name: str, overrides: Sequence[str], key: str | None) -> Any:
    last = {meant(each)[0]: each for each in overrides}
    try:
        read = [each for place, each in last.items() if changed(each, OmegaConf.select(whole, place.lstrip("+")))]
        if read:
            raise ValueError("\n".join(map(advice, read)))
        composed = whole[key] if key else whole
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ValueError(f"no value for {', '.join(missing)}; set each on the command line or in conf/{name}.yaml")
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    except AttributeError as error:  # `++` bypasses Hydra's check of keys; the dataclasses' slots reject them here
        raise ValueError(f"{error}; {NO_KEY}") from error


def _merged(name: str, overrides: Sequence[str]) -> DictConfig:
    """The files of conf/ with overrides, before anything is resolved."""
    GlobalHydra.instance().clear()
    folders = folders_of(overrides)
    home = next((folder for folder in folders if (folder / f"{name}.yaml").is_file()), CONF)
    if home != CONF:  # Hydra looks for the first file in its own folder only
        rest = [spelled("", str(folder))[1:] for folder in folders if folder != home]
        kept = [each for each in overrides if not each.startswith(SEARCHPATH)]
        overrides = [*kept, f"{SEARCHPATH}=[{','.join(rest)}]"]
    try:
        with initialize_config_dir(str(home.absolute()), version_base="1.3"):
            return hydra_compose(name, list(overrides))
    except UnicodeDecodeError as error:
        raise ValueError(f"a file of {CONF} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except MissingConfigException as error:
        group, _, file = str(error.missing_cfg_file).partition("/")
        options = _experiments(overrides) if group == "experiment" else error.options
        if not options:
            raise ValueError(one_line(error)) from error
        raise ValueError(f"there is no {group} {file}; {choose(file, options)}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(one_line(error)) from error
    except AssertionError as error:  # OmegaConf's, for a key inside of null
        remedy = "choose that first, as in lora=rank16, data=on_policy or model=from_scratch"
        raise ValueError(f"what it belongs to is null; {remedy}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{' '.join(str(error).split())}; a file of {CONF} is not valid YAML, correct it") from error


def _experiments(overrides: Sequence[str]) -> list[str]:
    """The names of all experiments, which lie in folders."""
    files = [path for folder in folders_of(overrides) for path in (folder / "experiment").glob("*/*.yaml")]
    return sorted(f"{path.parent.name}/{path.stem}" for path in files)


def _problem_of(name: str, overrides: Sequence[str], key: str | None) -> str | None:
    """What is wrong with the last of the overrides, named as the user typed it; None if nothing is."""
    last = overrides[-1]
    try:
        _composed(name, overrides, key)
    except ValueError as error:
        if NO_KEY not in str(error) and _is_text(name, overrides, key):
            return advice(last)
        said = _named(name, overrides, str(error)) if NO_KEY in str(error) else str(error)
        return f"{last.removeprefix(f'{key}.')}: {said}"
    return None


def _named(name: str, overrides: Sequence[str], said: str) -> str:
    """What is said about the last override's key, which does not exist, with the keys that do where it is."""
    parts = meant(overrides[-1])[0].lstrip("+~").split(".")
    try:
        place: Any = _merged(name, overrides[:-1])
    except ValueError:
        return said
    for part in parts:
        if not isinstance(place, DictConfig) or OmegaConf.is_missing(place, part):
            return said
        if part not in place:
            keys = [str(each) for each in place if each not in ("name", "table", "bench")]
            return f"{NO_KEY}; {instead(part, parts[0], keys)}"
        place = place._get_node(part)
    return said


def _is_text(name: str, overrides: Sequence[str], key: str | None) -> bool:
    """Whether the last override, which cannot be used as it is, is fine once its value is quoted as text."""
    place, text = meant(overrides[-1])
    quoted = [*overrides[:-1], spelled(place, text)]
    if quoted == list(overrides) or "${" in text:
        return False
    try:
        whole = _merged(name, quoted)
        _resolved(whole, name, quoted, key)
    except ValueError:
        return False
    return OmegaConf.select(whole, place.lstrip("+")) == text
