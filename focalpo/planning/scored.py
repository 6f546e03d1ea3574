"""The stages that score completions: benchmarks, answers from files, a judge's verdicts, verdicts by code."""

from dataclasses import replace
from pathlib import Path

from focalpo.config.compose import plain
from focalpo.config.schema import Config
from focalpo.judging.identity import judge_name
from focalpo.planning.code import benchmark_code, check_code, judge_code
from focalpo.planning.slices import benchmarks, judged_slice, protocol_slice
from focalpo.stages.folder import Stage, file_hash


def benchmark_stage(config: Config, name: str) -> Stage:
    """The benchmark's questions and reference answers: downloaded, read from a folder, or from the pocket world."""
    folder = config.check.folder if name in config.check.benchmarks else config.judge.folder
    launch = {"folder": folder, "track": plain(config.track)}
    settings = protocol_slice(config, name) | benchmark_code(benchmarks(config)[name])
    return Stage("benchmark", name, settings, launch=launch)


def answered(config: Config) -> Config:
    """The configuration of a row whose answers come from files: the benchmarks that have one are judged, no other."""
    judged = {name: protocol for name, protocol in config.judge.benchmarks.items() if name in config.generate.answers}
    return replace(config, judge=replace(config.judge, benchmarks=judged))


def answers_stage(config: Config, label: str) -> Stage:
    """A model's answers from files: results depend on their content, not on where they lie."""
    files = config.generate.answers
    return Stage(
        "answers",
        label,
        settings={"sets": {name: {"questions": name, "sha256": file_hash(Path(file))} for name, file in files.items()}},
        inputs={name: benchmark_stage(config, name) for name in files},
        launch={"files": dict(files), "track": plain(config.track)},
    )


def judge_stage(config: Config, label: str, generate: Stage) -> Stage:
    """The judge's verdicts on the completions of every judged benchmark."""
    return Stage(
        "judge",
        label,
        settings={
            "protocols": {name: judged_slice(config, name) for name in config.judge.benchmarks},
            "judge": judge_name(config.judge.name, config.judge.endpoint.base_url),
            "code": judge_code(config),
        },
        inputs={"completions": generate} | {name: generate.inputs[name] for name in config.judge.benchmarks},
        launch={
            "endpoint": plain(config.judge.endpoint),
            "sentinel": config.judge.sentinel,
            "most_missing": config.judge.most_missing,
            "track": plain(config.track),
        },
    )


def check_stage(config: Config, label: str, generate: Stage) -> Stage:
    """Verdicts by code on every set of completions whose questions a program can check."""
    checked = config.check.benchmarks
    return Stage(
        "check",
        label,
        settings={
            "protocols": {name: protocol_slice(config, name) for name in checked},
            "sets": {name: each.questions for name, each in config.generate.sets.items() if each.questions in checked},
            "code": check_code(),
        },
        inputs={"completions": generate} | {name: generate.inputs[name] for name in checked},
        launch={"track": plain(config.track)},
    )
