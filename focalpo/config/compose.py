"""YAML and command line in, validated plain objects out. Only this file and overrides.py import Hydra.

    conf/*.yaml + command line --compose--> OmegaConf, typed by schema.py --resolve--> plain objects, validated

All mistakes in a configuration are reported at once, before anything is loaded. No other package sees a Hydra config.
"""

import re
from collections.abc import Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass, make_dataclass
from typing import Any, TypeVar, get_type_hints

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from focalpo.config.bench import BenchSettings
from focalpo.config.models import model_problems
from focalpo.config.overrides import advice, changed, meant, spelled, unread
from focalpo.config.schema import DATA_KEYS, NO_EFFECT, CalibrateJudgeConfig, Config, DataConfig, TableConfig
from focalpo.data.truncation import RULES
from focalpo.stages.origin import ROOT
from focalpo.stages.ranges import out_of_range
from focalpo.training.objective import OBJECTIVES
from focalpo.training.settings import NCCL_SECONDS

CONF = ROOT / "conf"
NO_KEY = "there is no such key; check the spelling"
# What Hydra says --> what it means here.
OWN_WORDS = {
    "Ambiguous value for argument": "several values are a search, which recipes.sweep runs; give one value",
    "requires --multirun": "several values are a search, which recipes.sweep runs; give one value",
    "Multiple values for": "a choice is made already; write it without the +",
    "is not in struct": "there is no such entry; correct its name, or add it by a + before the key",
    "Could not override": NO_KEY,
    "is not a ListConfig": "a list is needed: KEY=[a,b]",
    "Config group override must be": "a choice is the name of a file in conf/; leave it out to keep the default",
    "Interpolation key": "${...} is no key of the configuration; a shell replaces it in double quotes only",
    "Cannot find primary config": "there is no such file in conf/; correct its name",
}
NOISE = re.compile(
    "Set the env|object_type|reference_type|Config search path|provider=|See https|To append to|[123]\\. To"
)
Shape = TypeVar("Shape")


def publish() -> None:
    """Register the schema with Hydra, and one option per objective with the fields and defaults of its class."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="calibrate_judge_schema", node=CalibrateJudgeConfig)
    store.store(group="table", name="schema", node=TableConfig)
    store.store(group="bench", name="schema", node=BenchSettings)
    for name, cls in OBJECTIVES.items():
        hints = get_type_hints(cls)
        options = [(f.name, hints[f.name], MISSING if f.default is NO_DEFAULT else f.default) for f in fields(cls)]  # type: ignore[arg-type]  # a dataclass
        node = make_dataclass(f"{cls.__name__}Config", [("name", str, name), *options], slots=True)
        store.store(group="objective", name=name, node=node)


def compose(overrides: Sequence[str]) -> Config:
    """Compose conf/config.yaml with command-line overrides into validated plain objects.

    Raises:
        ValueError: with one line per mistake.
    """
    config = _compose("config", overrides, Config)
    problems = list(_problems(config))
    if problems:
        raise ValueError("\n".join(problems))
    return config


def compose_table(name: str) -> TableConfig:
    """Compose conf/table/<name>.yaml."""
    return _compose(f"table/{name}", [], TableConfig, "table")


def compose_bench(name: str, overrides: Sequence[str]) -> BenchSettings:
    """Compose conf/bench/<name>.yaml with overrides of its keys."""
    prefixed = [f"~bench.{each[1:]}" if each.startswith("~") else f"bench.{each}" for each in overrides]
    return _compose(f"bench/{name}", prefixed, BenchSettings, "bench")


def compose_calibrate_judge(overrides: Sequence[str]) -> CalibrateJudgeConfig:
    """Compose conf/calibrate_judge.yaml with overrides of its keys."""
    return _compose("calibrate_judge", overrides, CalibrateJudgeConfig)


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


def _compose(name: str, overrides: Sequence[str], shape: type[Shape], key: str | None = None) -> Shape:
    publish()
    strange = [line for each in overrides if (line := unread(each))]
    if strange:
        raise ValueError("\n".join(strange))
    try:
        return _composed(name, overrides, key)
    except ValueError as first:
        # Hydra stops at the first wrong override. Trying each one together with the valid group choices finds all:
        # whether an option is valid depends on its objective.
        undotted = [each for each in overrides if "." not in each.partition("=")[0]]
        groups = [each for each in undotted if not _problem_of(name, [each], key)]
        others = [each for each in overrides if each not in groups]
        problems = [problem for each in others if (problem := _problem_of(name, [*groups, each], key))]
        raise ValueError("\n".join(dict.fromkeys(problems)) or str(first)) from first


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
        raise ValueError(_one_line(error)) from error
    except AttributeError as error:  # `++` bypasses Hydra's check of keys; the dataclasses' slots reject them here
        raise ValueError(f"{error}; {NO_KEY}") from error


def _merged(name: str, overrides: Sequence[str]) -> DictConfig:
    """The files of conf/ with overrides, before anything is resolved."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose(name, list(overrides))
    except UnicodeDecodeError as error:
        raise ValueError(f"a file of {CONF} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(_one_line(error)) from error
    except AssertionError as error:  # OmegaConf's, for a key inside of null
        remedy = "choose that first, as in lora=rank16, data=on_policy or model=from_scratch"
        raise ValueError(f"what it belongs to is null; {remedy}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{' '.join(str(error).split())}; a file of {CONF} is not valid YAML, correct it") from error


def _problem_of(name: str, overrides: Sequence[str], key: str | None) -> str | None:
    """What is wrong with the last of the overrides, named as the user typed it; None if nothing is."""
    last = overrides[-1]
    try:
        _composed(name, overrides, key)
    except ValueError as error:
        if _is_text(name, overrides, key):
            return advice(last)
        return f"{last.removeprefix(f'{key}.')}: {error}"
    return None


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


def _one_line(error: Exception) -> str:
    """Hydra's message without its remedies, which are for other programs: ours has no --multirun and adds no keys."""
    lines = [line.strip() for cause in (error, error.__cause__) if cause for line in str(cause).splitlines()]
    kept = " ".join(dict.fromkeys(line for line in lines if line and not NOISE.match(line)))
    if isinstance(error, OverrideParseException):
        return "its value cannot be read; one with any of = , ( ) [ ] { } needs quotes"
    for found, words in OWN_WORDS.items():
        if found in kept:
            return words
    return kept.replace("full_key: ", "at ")


def _problems(config: Config):
    """Every mistake that the types do not catch, each with its remedy."""
    try:
        objective_of(plain(config.objective))
    except ValueError as error:
        yield str(error)
    yield from out_of_range(config)
    yield from config.train.problems()
    if config.lora is not None:
        yield from config.lora.problems()
    yield from _data_problems(config.data)
    yield from model_problems(config)
    if config.model.package is not None:
        yield from config.model.package.problems()
    template = config.model.chat_template
    if template is not None and not (CONF.parent / template).is_file():
        yield f"model.chat_template={template} is not a file of {CONF.parent}; correct the path"
    for name, seed in (("seed", config.seed), ("model.seed", config.model.seed), ("data.seed", config.data.seed)):
        if not 0 <= seed < 1 << 32:
            yield f"{name}={seed} must be in [0, 2^32)"
    ranks, batch = config.launch.ranks, config.train.global_batch
    if ranks < 1:
        yield f"launch.ranks={ranks} must be >= 1"
    elif batch % ranks:
        yield f"train.global_batch={batch} is not divisible by launch.ranks={ranks}; change one of them"
    if not 0 < config.launch.hang_seconds < NCCL_SECONDS:
        yield f"launch.hang_seconds={config.launch.hang_seconds:g} must be > 0 and below NCCL's own {NCCL_SECONDS}"
    if "@" in (config.judge.endpoint.base_url or "").partition("://")[2].partition("/")[0]:
        yield "judge.endpoint.base_url contains a password; put the key into the variable of judge.endpoint.api_key_env"
    if config.generate.backend not in ("hf", "vllm"):
        yield f"generate.backend={config.generate.backend!r} is not one of hf, vllm"
    for name, decoding in config.generate.sets.items():
        if decoding.temperature < 0 or not 0 < decoding.top_p <= 1 or decoding.max_new_tokens < 1:
            yield f"generate.sets.{name}: needs temperature >= 0, 0 < top_p <= 1, max_new_tokens >= 1"
        if decoding.questions not in config.judge.benchmarks:
            yield f"generate.sets.{name}.questions={decoding.questions!r} is not in judge.benchmarks"


def _data_problems(data: DataConfig):
    if data.source not in DATA_KEYS:
        yield f"data.source={data.source!r} is not one of {', '.join(DATA_KEYS)}"
    for name in dict.fromkeys(name for names in DATA_KEYS.values() for name in names):
        value, neutral = getattr(data, name), NO_EFFECT.get(name)
        if name not in DATA_KEYS.get(data.source, (name,)) and value != neutral:
            remedy = f"leave it at {'null' if neutral is None else neutral}"
            if data.source == "hub" and name == "test_path":
                # trl-lib's train split seems to contain half of H4's test_prefs: never test on another dataset's pairs.
                remedy = "a hub dataset brings its own test pairs, set data.test_split"
            yield f"data.{name}={value} has no effect with data.source={data.source}; {remedy}"
    if data.source in ("file", "hub", "on_policy") and not data.path:
        yield f"data.path is not set; data.source={data.source} needs " + (
            "the path of a jsonl, jsonl.gz, json or parquet file" if data.source == "file" else "a dataset id"
        )
    if (data.source == "on_policy") != (data.on_policy is not None):
        yield f"data.source={data.source}: data.on_policy belongs to data.source=on_policy; set both or neither"
    if data.source in ("hub", "on_policy") and not data.revision:
        yield "data.revision is not set; pin the dataset to a commit so that the run is reproducible"
    if data.on_bad_rows not in ("error", "drop"):
        yield f"data.on_bad_rows={data.on_bad_rows!r} is not one of error, drop"
    if not 0 <= data.label_noise <= 0.5:
        yield f"data.label_noise={data.label_noise} must be in [0, 0.5]"
    if not 0 <= data.test_fraction < 1:
        yield f"data.test_fraction={data.test_fraction} must be in [0, 1)"
    if data.truncation not in RULES:
        yield f"data.truncation={data.truncation!r} is not one of {', '.join(RULES)}"
    if not 1 <= data.max_prompt_length < data.max_length:
        yield f"data.max_prompt_length={data.max_prompt_length} must be in [1, data.max_length={data.max_length})"
