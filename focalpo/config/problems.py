"""Checks of a composed configuration that its types do not make: ranges, and values that do not go together."""

from collections.abc import Iterator
from pathlib import Path

from focalpo.config.cluster import cluster_problems
from focalpo.config.data import SOURCES, UNPAIRED, Data
from focalpo.config.models import model_problems
from focalpo.config.schema import CapabilityConfig, Config
from focalpo.stages.origin import ROOT
from focalpo.stages.ranges import out_of_range
from focalpo.stages.suites import suites
from focalpo.training.settings import DENSE, NCCL_SECONDS


def problems(config: Config) -> Iterator[str]:
    """Every mistake that the types do not catch, each with its remedy."""
    if not isinstance(config.data, Data):
        sources = ", ".join(f"/source/{name}" for name in SOURCES)
        yield f"the file of data= names no source; its defaults begin with one of {sources}, with @_here_ after it"
        return
    yield from out_of_range(config)
    yield from config.train.problems()
    yield from config.train.problems_with(config.launch.ranks)
    if config.lora is not None:
        yield from config.lora.problems()
        yield from _quantization_problems(config)
    yield from config.data.problems()
    yield from model_problems(config)
    yield from cluster_problems(config.cluster)
    if config.model.package is not None:
        yield from config.model.package.problems()
    template = config.model.chat_template
    if template is not None and not (ROOT / template).is_file():
        yield f"model.chat_template={template} is not a file of {ROOT}; correct the path"
    if not 0 < config.launch.hang_seconds < NCCL_SECONDS:
        yield f"launch.hang_seconds={config.launch.hang_seconds:g} must be > 0 and below NCCL's own {NCCL_SECONDS}"
    if "@" in (config.judge.endpoint.base_url or "").partition("://")[2].partition("/")[0]:
        yield "judge.endpoint.base_url contains a password; put the key into the variable of judge.endpoint.api_key_env"
    if config.generate.backend not in ("hf", "vllm"):
        yield f"generate.backend={config.generate.backend!r} is not one of hf, vllm"
    if config.rounds > 1 and not config.data.own_answers:
        own = ", ".join(f"/source/{name}" for name, shape in SOURCES.items() if shape.own_answers)
        remedy = f"choose a data= whose source is one of {own}, or rounds=1"
        yield f"rounds={config.rounds}: the pairs of data={config.data.name} are not the model's own answers; {remedy}"
    if config.data.source == "unpaired" and config.objective.name not in UNPAIRED:
        remedy = f"choose objective={'|'.join(UNPAIRED)}, or pairs by data=file"
        yield f"objective={config.objective.name} needs pairs, and data={config.data.name} has single answers; {remedy}"
    yield from _capability_problems(config.capability)
    yield from _benchmark_problems(config)
    yield from _answer_problems(config)


def _quantization_problems(config: Config) -> Iterator[str]:
    assert config.lora is not None
    if config.lora.quantization == DENSE:
        return
    chosen = f"lora.quantization={config.lora.quantization}"
    if config.train.zero_stage == 3:
        yield f"{chosen} does not work with train.zero_stage=3, which cannot partition 4-bit weights; use 1 or 2"
    if config.reference.dtype != config.train.dtype:
        yield f"{chosen} requires reference.dtype={config.train.dtype}: policy and reference are the same 4 bits"


def _capability_problems(asked: CapabilityConfig) -> Iterator[str]:
    if asked.suite is None:
        if asked.chat_template or asked.limit:
            yield "capability.chat_template and capability.limit have no effect without a suite; choose capability=NAME"
    elif asked.suite not in suites():
        yield f"capability.suite={asked.suite!r} is not in eval/capability.yaml; it has {', '.join(suites())}"


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


def _answer_problems(config: Config) -> Iterator[str]:
    """Whether each file of answers exists, and answers the questions of a benchmark that is judged."""
    judged = config.judge.benchmarks
    for name, file in config.generate.answers.items():
        place = f"generate.answers.{name}={file}"
        if name not in judged:
            remedy = f"name one of {', '.join(judged)}" if judged else "choose a judge by judge=NAME"
            yield f"{place}: {name} is no benchmark that is judged; {remedy}"
        elif not Path(file).is_file():
            yield f"{place} is no file; correct the path"
