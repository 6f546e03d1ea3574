"""Checks of a composed configuration that its types do not make: ranges, and values that do not go together."""

from collections.abc import Iterator

from focalpo.config.models import model_problems
from focalpo.config.schema import DATA_KEYS, NO_EFFECT, Config, DataConfig
from focalpo.data.truncation import RULES
from focalpo.stages.origin import ROOT
from focalpo.stages.ranges import out_of_range
from focalpo.training.settings import NCCL_SECONDS


def problems(config: Config) -> Iterator[str]:
    """Every mistake that the types do not catch, each with its remedy."""
    yield from out_of_range(config)
    yield from config.train.problems()
    if config.lora is not None:
        yield from config.lora.problems()
    yield from _data_problems(config.data)
    yield from model_problems(config)
    if config.model.package is not None:
        yield from config.model.package.problems()
    template = config.model.chat_template
    if template is not None and not (ROOT / template).is_file():
        yield f"model.chat_template={template} is not a file of {ROOT}; correct the path"
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


def _data_problems(data: DataConfig) -> Iterator[str]:
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
