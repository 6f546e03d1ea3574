"""Checks of a composed configuration that its types do not make: ranges, and values that do not go together."""

from collections.abc import Iterator

from focalpo.config.cluster import cluster_problems
from focalpo.config.models import model_problems
from focalpo.config.schema import DATA_KEYS, NO_EFFECT, Config, DataConfig
from focalpo.data.truncation import RULES
from focalpo.stages.origin import ROOT
from focalpo.stages.ranges import out_of_range
from focalpo.stages.suites import suites
from focalpo.training.settings import NCCL_SECONDS


def problems(config: Config) -> Iterator[str]:
    """Every mistake that the types do not catch, each with its remedy."""
    yield from out_of_range(config)
    yield from config.train.problems()
    if config.lora is not None:
        yield from config.lora.problems()
    yield from _data_problems(config.data)
    yield from model_problems(config)
    yield from cluster_problems(config.cluster)
    if config.model.package is not None:
        yield from config.model.package.problems()
    template = config.model.chat_template
    if template is not None and not (ROOT / template).is_file():
        yield f"model.chat_template={template} is not a file of {ROOT}; correct the path"
    ranks, batch = config.launch.ranks, config.train.global_batch
    if ranks >= 1 and batch % ranks:
        yield f"train.global_batch={batch} is not divisible by launch.ranks={ranks}; change one of them"
    if not 0 < config.launch.hang_seconds < NCCL_SECONDS:
        yield f"launch.hang_seconds={config.launch.hang_seconds:g} must be > 0 and below NCCL's own {NCCL_SECONDS}"
    if "@" in (config.judge.endpoint.base_url or "").partition("://")[2].partition("/")[0]:
        yield "judge.endpoint.base_url contains a password; put the key into the variable of judge.endpoint.api_key_env"
    if config.generate.backend not in ("hf", "vllm"):
        yield f"generate.backend={config.generate.backend!r} is not one of hf, vllm"
    if config.capability is not None and config.capability.suite not in suites():
        known = ", ".join(suites())
        yield f"capability.suite={config.capability.suite!r} is not in eval/capability.yaml; it has {known}"
    yield from _benchmark_problems(config)


def _benchmark_problems(config: Config) -> Iterator[str]:
    """Whether the sets of completions and the benchmarks, which are judged or checked by code, are of each other."""
    judged, checked, sets = config.judge.benchmarks, config.check.benchmarks, config.generate.sets
    for name, decoding in sets.items():
        if decoding.questions not in {*judged, *checked}:
            place = f"generate.sets.{name}.questions={decoding.questions!r}"
            remedy = f"remove the set by '~generate.sets.{name}'"
            yield f"{place} is not in judge.benchmarks or check.benchmarks; {remedy}"
    for name in judged.keys() & checked.keys():
        yield f"{name} is in judge.benchmarks and in check.benchmarks; remove it by '~check.benchmarks.{name}'"
    for key, benchmarks in (("judge", judged), ("check", checked)):
        for name in benchmarks:
            if name not in sets or sets[name].questions != name:
                remedy = f"add the set, or remove the benchmark by '~{key}.benchmarks.{name}'"
                yield f"{key}.benchmarks.{name}: no set of that name in generate.sets has its questions; {remedy}"


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
    least = {"prompts": 1, "samples": 2 if data.source == "pocket_instruct" else 1}  # a pair is of two samples
    for name in least.keys() & DATA_KEYS.get(data.source, ()):
        if getattr(data, name) < least[name]:
            yield f"data.{name}={getattr(data, name)} must be >= {least[name]} with data.source={data.source}"
    if data.truncation not in RULES:
        yield f"data.truncation={data.truncation!r} is not one of {', '.join(RULES)}"
    if not 1 <= data.max_prompt_length < data.max_length:
        yield f"data.max_prompt_length={data.max_prompt_length} must be in [1, data.max_length={data.max_length})"
