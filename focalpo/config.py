"""YAML holds values, the slots dataclasses here hold shape; the only file of the package that knows Hydra.

    conf/*.yaml + command line --compose--> OmegaConf, typed by these classes --resolve--> plain objects, checked

All mistakes of a configuration are reported at once, before anything is loaded. Beyond this door no room sees a config.
"""

from collections.abc import Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from focalpo.track import TrackSettings
from focalpo.training.engine import TrainSettings
from focalpo.training.objective import OBJECTIVES
from focalpo.training.scratch import Architecture

CONF = Path(__file__).parent.parent / "conf"
Shape = TypeVar("Shape")


@dataclass(slots=True)
class PhaseConfig:
    """One phase of supervised training: which demonstrations, how many, and how to train on them."""

    demonstrations: str
    count: int
    train: TrainSettings


@dataclass(slots=True)
class ModelConfig:
    """The SFT model: a hub id at a revision, or an architecture with the phases that train it here."""

    name: str
    path: str | None
    revision: str | None
    chat_template: str | None
    stop_tokens: list[str]
    architecture: Architecture | None
    tokenizer: str | None
    phases: dict[str, PhaseConfig]
    seed: int


@dataclass(slots=True)
class DataConfig:
    """Preference pairs: made by the pocket world, read from files, or loaded from the hub at a revision."""

    name: str
    source: str
    path: str | None
    test_path: str | None
    revision: str | None
    train_split: str
    test_split: str | None
    test_fraction: float
    limit: int | None
    on_bad_rows: str
    max_prompt_length: int
    max_length: int
    prompts: int
    label_noise: float
    samples: int
    temperature: float
    seed: int


@dataclass(slots=True)
class ReferenceConfig:
    """How reference log-probs are computed."""

    dtype: str
    micro_batch_tokens: int


@dataclass(slots=True)
class DynamicsConfig:
    """Whose log-probs are followed: how many training pairs, and every how many steps (0: start and end only)."""

    train_pairs: int
    every: int


@dataclass(slots=True)
class DecodingConfig:
    """How one set of completions is decoded; temperature 0 is greedy."""

    questions: str
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(slots=True)
class GenerateConfig:
    """Which backend generates which sets."""

    backend: str
    dtype: str
    tensor_parallel: int
    data_parallel: int
    max_batch_tokens: int
    sets: dict[str, DecodingConfig]


@dataclass(slots=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint; `pocket` starts the pocket judge for the length of the stage."""

    base_url: str
    api_key_env: str | None
    concurrency: int
    timeout_seconds: float
    max_attempts: int


@dataclass(slots=True)
class JudgeConfig:
    """Which protocols of eval/ judge which set of completions, and where the judge is."""

    benchmarks: dict[str, str]
    folder: str | None
    endpoint: EndpointConfig


@dataclass(slots=True)
class LaunchConfig:
    """How stages are run; nothing here changes a result."""

    ranks: int
    workers: int


@dataclass(slots=True)
class Config:
    """Everything one row of the table depends on."""

    model: ModelConfig
    data: DataConfig
    objective: Any
    train: TrainSettings
    reference: ReferenceConfig
    dynamics: DynamicsConfig
    generate: GenerateConfig
    judge: JudgeConfig
    launch: LaunchConfig
    track: TrackSettings
    seed: int
    runs: str


@dataclass(slots=True)
class TableSettingConfig:
    """One setting (pair of columns) of the table: overrides that select it and the folder of its experiments."""

    label: str
    overrides: list[str]
    experiments: str


@dataclass(slots=True)
class RowConfig:
    """One row: its label and how many seeds; `trained: false` is the SFT model itself."""

    label: str
    seeds: int
    trained: bool = True


@dataclass(slots=True)
class TableConfig:
    """Table 1 at one scale; with `add_new_objectives` a freshly registered loss gets a row of its own."""

    scale: str
    settings: dict[str, TableSettingConfig]
    rows: dict[str, RowConfig]
    compare_with: str
    add_new_objectives: bool
    paper_numbers: str | None
    needs: dict[str, str] = field(default_factory=dict)


def publish() -> None:
    """Tell Hydra the schema and one option per registered objective, with the class's own fields and defaults."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="table", name="schema", node=TableConfig)
    for name, cls in OBJECTIVES.items():
        hints = get_type_hints(cls)
        options = [(f.name, hints[f.name], MISSING if f.default is NO_DEFAULT else f.default) for f in fields(cls)]
        node = make_dataclass(f"{cls.__name__}Config", [("name", str, name), *options], slots=True)
        store.store(group="objective", name=name, node=node)


def compose(overrides: Sequence[str]) -> Config:
    """Compose conf/config.yaml with command-line overrides into checked plain objects.

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


def objective_of(settings: dict) -> Any:
    """The loss that `{"name": ..., <options>}` describes.

    Raises:
        ValueError: for options out of range.
    """
    options = dict(settings)
    return OBJECTIVES[options.pop("name")](**options)


def plain(value: Any) -> Any:
    """A dataclass, list or dict as plain JSON values: what goes into a stage's settings."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def shaped(values: dict, shape: type[Shape]) -> Shape:
    """The dataclass that `plain` came from."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(shape), values))  # type: ignore[return-value]


def _compose(name: str, overrides: Sequence[str], shape: type[Shape], key: str | None = None) -> Shape:
    publish()
    try:
        return _composed(name, overrides, key)
    except ValueError as first:
        # Hydra stops at the first wrong override; trying each alone finds them all.
        alone = [problem for override in overrides if (problem := _problem_of(name, override, key))]
        raise ValueError("\n".join(dict.fromkeys(alone)) or str(first)) from first


def _composed(name: str, overrides: Sequence[str], key: str | None) -> Any:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose(name, list(overrides))
        composed = composed[key] if key else composed
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ValueError(f"no value for {', '.join(missing)}; set each on the command line or in conf/{name}.yaml")
        return OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error
    except AttributeError as error:  # `++` adds keys behind Hydra's back; the classes' slots refuse them here
        raise ValueError(f"{error}; no such key: check the spelling, `++` cannot add one") from error


def _problem_of(name: str, override: str, key: str | None) -> str | None:
    try:
        _composed(name, [override], key)
    except ValueError as error:
        return f"{override}: {error}"
    return None


def _one_line(error: Exception) -> str:
    lines = [line.strip() for cause in (error, error.__cause__) if cause for line in str(cause).splitlines()]
    noise = ("Set the env", "object_type", "reference_type", "full_key", "Config search path", "provider=")
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(noise)))


def _problems(config: Config):
    """Every mistake that types alone do not show, each with its remedy."""
    try:
        objective_of(plain(config.objective))
    except ValueError as error:
        yield str(error)
    for phase in config.model.phases.values():
        yield from phase.train.problems()
    yield from config.train.problems()
    yield from _data_problems(config.data)
    if (config.model.path is None) == (config.model.architecture is None):
        yield "model: set either model.path (a released model) or model.architecture (trained here), not both"
    ranks, batch = config.launch.ranks, config.train.global_batch
    if ranks < 1:
        yield f"launch.ranks={ranks} must be >= 1"
    elif batch % ranks:
        yield f"train.global_batch={batch} is not divisible by launch.ranks={ranks}; change one of them"
    if config.generate.backend not in ("hf", "vllm"):
        yield f"generate.backend={config.generate.backend!r} is not one of hf, vllm"
    for name, decoding in config.generate.sets.items():
        if decoding.temperature < 0 or not 0 < decoding.top_p <= 1 or decoding.max_new_tokens < 1:
            yield f"generate.sets.{name}: needs temperature >= 0, 0 < top_p <= 1, max_new_tokens >= 1"
        if decoding.questions not in config.judge.benchmarks:
            yield f"generate.sets.{name}.questions={decoding.questions!r} is not in judge.benchmarks"


def _data_problems(data: DataConfig):
    sources = ("pocket_base", "pocket_instruct", "file", "hub")
    if data.source not in sources:
        yield f"data.source={data.source!r} is not one of {', '.join(sources)}"
    if data.source in ("file", "hub") and not data.path:
        yield f"data.path is not set; data.source={data.source} needs " + (
            "the path of a jsonl, jsonl.gz, json or parquet file" if data.source == "file" else "a dataset id"
        )
    if data.source == "hub" and not data.revision:
        yield "data.revision is not set; pin the dataset to a commit so that the run can be repeated"
    if data.on_bad_rows not in ("error", "drop"):
        yield f"data.on_bad_rows={data.on_bad_rows!r} is not one of error, drop"
    if not 0 <= data.label_noise <= 0.5:
        yield f"data.label_noise={data.label_noise} must be in [0, 0.5]"
    if not 0 <= data.test_fraction < 1:
        yield f"data.test_fraction={data.test_fraction} must be in [0, 1)"
    if not 1 <= data.max_prompt_length < data.max_length:
        yield f"data.max_prompt_length={data.max_prompt_length} must be in [1, data.max_length={data.max_length})"
