"""Turn a configuration into the stages that produce its results. Pure: reads only what goes into stage keys.

    sft* -> pairs -> reference -> train -> generate -> judge, check -> report    benchmark -> generate, judge, check
            a model from the package index: convert -> pairs
            pairs from the model's own answers: prompts -> sample -> reward -> pairs; in rounds, also train -> sample
            answers from files: benchmark -> answers -> judge -> report

Each stage's settings are the slice of the configuration that its outputs depend on. Rows, seeds and sweeps therefore
share whatever they have in common, and a change re-runs what depends on it and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from focalpo.config.compose import objective_of, plain
from focalpo.config.schema import Config, TableConfig
from focalpo.judging.protocol import EVAL
from focalpo.planning.anchors import anchors_stage
from focalpo.planning.capability import capability_stage
from focalpo.planning.code import (
    demonstrations_code,
    objective_code,
    pairs_code,
    report_code,
)
from focalpo.planning.rounds import before, model_input, round_label
from focalpo.planning.sampled import reward_stage, sampled_slice
from focalpo.planning.scored import answered, answers_stage, benchmark_stage, check_stage, judge_stage
from focalpo.planning.slices import (
    SAMPLED,
    backend_slice,
    benchmarks,
    data_files,
    data_slice,
    generator_slice,
    launch_slice,
    limits_slice,
    lora_slice,
    model_slice,
    quantization_slice,
    split_train,
    start_slice,
    threads_slice,
)
from focalpo.stages.folder import Stage, file_hash
from focalpo.training.objective import reference_beside
from focalpo.training.settings import CONVERSION


@dataclass(frozen=True, slots=True)
class Row:
    """The stages of one row and seed; `train` is None where nothing is trained, as for the SFT model itself; `generate`
    may be answers from files.

    `judge`, `check` and `capability` are None where nothing is judged, checked by code, or run by lm-eval.
    """

    train: Stage | None
    generate: Stage
    judge: Stage | None
    check: Stage | None = None
    capability: Stage | None = None
    anchors: Stage | None = None  # of a row whose start model and data the author had too

    def stages(self) -> list[Stage]:
        return [stage for stage in (self.train, self.generate, *self.scored()) if stage is not None]

    def scored(self) -> list[Stage]:
        """The stages that score the completions or, on tasks of its own, the model."""
        return [stage for stage in (self.judge, self.check, self.capability) if stage is not None]


def row_stages(config: Config, name: str, trained: bool = True) -> Row:
    """The stages that lead from a configuration to the scored answers of one model."""
    if config.generate.answers:
        config = answered(config)
        answers = answers_stage(config, name)
        return Row(None, answers, judge_stage(config, name, answers))
    model = train_stage(config, name) if trained else sft_stage(config)
    questions = {name: benchmark_stage(config, name) for name in benchmarks(config)}
    label = f"{name}-s{config.seed}"
    generate = Stage(
        "generate",
        label,
        settings={
            "model": model_slice(config, from_hub=model is None),
            "dtype": config.generate.dtype,
            "sets": plain(config.generate.sets),
            "seed": config.seed,
        }
        | backend_slice(config)
        | threads_slice(config),
        inputs=({"model": model} if model else {}) | questions,
        launch=generator_slice(config),
    )
    judge = judge_stage(config, label, generate) if config.judge.benchmarks else None
    check = check_stage(config, label, generate) if config.check.benchmarks else None
    # No seed is part of it: a model that is not trained is the same for all seeds.
    capability = capability_stage(config, label if trained else name, model) if config.capability.suite else None
    anchors = anchors_stage(config) if trained else None
    return Row(model if trained else None, generate, judge, check, capability, anchors)


def train_stage(config: Config, name: str) -> Stage:
    """Preference training with one seed, in the last round."""
    return _trained(config, name, f"{name}-s{config.seed}")


def start_stage(config: Config, name: str) -> Stage | None:
    """The model that the last round starts from: the SFT model, or what the round before has trained. None when a model
    of the hub is used as it is."""
    earlier = before(config)
    return _trained(earlier, name, f"{name}-round{earlier.rounds}-s{config.seed}") if earlier else sft_stage(config)


def _trained(config: Config, name: str, label: str) -> Stage:
    """The training of a round, and the reference log-probs if its objective declares that it needs them."""
    objective = objective_of(plain(config.objective))
    start = start_stage(config, name)
    inputs = model_input(start) | {"pairs": pairs_stage(config, start)}
    if objective.needs_reference:
        inputs["reference"] = reference_stage(config, ("chosen", "rejected"), start)
        if beside := reference_beside(objective):
            inputs["reference_batch"] = reference_stage(config, beside, start)
    settings, execution = split_train(plain(config.train))
    anchors = anchors_stage(config) if config.reference.must_fit else None
    return Stage(
        "train",
        label,
        settings={
            "model": start_slice(config),
            "objective": plain(config.objective),
            "train": settings,
            "dynamics": plain(config.dynamics),
            "seed": config.seed,
            "code": objective_code(config.objective.name),
        }
        | lora_slice(config)
        | threads_slice(config),
        inputs=inputs,
        launch=launch_slice(config) | {"train": execution, "anchors": anchors.title if anchors else None},
        before=(anchors,) if anchors else (),
    )


def reference_stage(config: Config, branches: tuple[str, ...], start: Stage | None) -> Stage:
    """The start model's log-probs of the named branches of every training pair, computed once for all objectives."""
    return Stage(
        "reference",
        f"{round_label(config.data.name, config)}-{'-'.join(branches)}",
        settings={"model": start_slice(config), "branches": list(branches), "dtype": config.reference.dtype}
        | quantization_slice(config)
        | threads_slice(config),
        inputs=model_input(start) | {"pairs": pairs_stage(config, start)},
        launch=launch_slice(config) | {"micro_batch_tokens": config.reference.micro_batch_tokens},
    )


def pairs_stage(config: Config, start: Stage | None) -> Stage:
    """Preference pairs, validated and tokenised for the model."""
    data = data_slice(config) | limits_slice(config) | {"on_bad_rows": config.data.on_bad_rows}
    return Stage(
        "pairs",
        round_label(config.data.name, config),
        settings={"model": start_slice(config), "data": data} | sampled_slice(config) | pairs_code(config),
        inputs=model_input(start) | ({"rated": reward_stage(config, start)} if config.data.source in SAMPLED else {}),
        launch={"max_batch_tokens": config.generate.max_batch_tokens, "track": plain(config.track)}
        | data_files(config),
    )


def sft_stage(config: Config) -> Stage | None:
    """The last phase of supervised fine-tuning, or the conversion; None when a model of the hub is used as it is."""
    stage = convert_stage(config) if config.model.package else None
    for phase_name, phase in config.model.phases.items():
        settings, execution = split_train(plain(phase.train))
        data = {"demonstrations": phase.demonstrations, "count": phase.count}
        if phase.demonstrations == "chosen":
            data["data"] = data_slice(config)
        stage = Stage(
            "sft",
            f"{config.model.name}-{phase_name}",
            settings={
                "model": model_slice(config),
                "architecture": plain(config.model.architecture),
                "tokenizer": config.model.tokenizer,
                "data": data,
                "limits": limits_slice(config),
                "train": settings,
                "seed": config.model.seed,
                "code": demonstrations_code(config, phase.demonstrations),
            }
            | threads_slice(config),
            inputs={"model": stage} if stage else {},
            launch=launch_slice(config) | {"train": execution, "phase": phase_name} | data_files(config),
        )
    return stage


def convert_stage(config: Config) -> Stage:
    """The model of a package as an ordinary Hugging Face folder."""
    settings = {"model": model_slice(config), "package": plain(config.model.package), "conversion": CONVERSION}
    return Stage("convert", config.model.name, settings, launch={"track": plain(config.track)})


Place = tuple[str, str, str]
"""The place of a run in a table: setting, row and seed. The seed is "2", or "3.2" if there are several SFT models."""


OF_SEARCHES = ("search_seeds", "search_settings", "search_by")
"""What a table says of its searches alone; it changes no report."""


def report_stage(table: TableConfig, rows: dict[Place, Row], command: Sequence[str] = ()) -> Stage:
    """The report on the scored rows; `command` holds the arguments of `recipes.reproduce` that requested it."""
    inputs = {f"anchors/{setting}": row.anchors for (setting, _, _), row in rows.items() if row.anchors is not None}
    for (setting, row, seed), stages in rows.items():
        scored = {stage.kind: stage for stage in stages.scored()}
        inputs |= {f"{setting}/{row}/{seed}/{kind}": stage for kind, stage in scored.items()}
        inputs[f"{setting}/{row}/{seed}/generate"] = stages.generate
        if stages.train is not None:
            inputs[f"{setting}/{row}/{seed}/train"] = stages.train
            inputs[f"{setting}/{row}/{seed}/pairs"] = stages.train.inputs["pairs"]
        for name, stage in stages.generate.inputs.items():
            if stage.kind == "benchmark":
                inputs[f"benchmark/{setting}/{name}"] = stage
    paper = table.paper_numbers and file_hash(EVAL / table.paper_numbers)
    shown = {name: value for name, value in plain(table).items() if name not in OF_SEARCHES}
    settings = {"table": shown, "paper_numbers": paper, "verdicts": file_hash(EVAL / "verdicts.yaml")}
    settings["code"] = report_code()
    launch = {"command": list(command), "track": next(iter(rows.values())).generate.launch["track"] if rows else {}}
    return Stage("report", table.study or table.scale, settings, inputs, launch)


def table_rows(table: TableConfig, configs: dict[tuple[str, str], Config]) -> dict[Place, Row]:
    """Every row, seed and setting of the table, from one configuration per (setting, row)."""
    rows = {}
    for (setting, name), config in configs.items():
        row = table.rows[name]
        # Where the configurations of both settings agree, their SFT model is the same: one name, one stage.
        label = f"{setting}-{name}" if row.trained or table.settings[setting].released else name
        models, seeds = (1, 1) if config.generate.answers else (table.sft_models, row.seeds)  # a file is one sample
        for model in range(config.model.seed, config.model.seed + models):
            for seed in range(config.seed, config.seed + seeds):
                place = str(seed) if table.sft_models == 1 else f"{model}.{seed}"
                seeded = replace(config, seed=seed, model=replace(config.model, seed=model))
                rows[setting, name, place] = row_stages(seeded, label, row.trained)
    return rows


def in_order(goals: list[Stage]) -> list[Stage]:
    """The goals and everything they need, each stage once and after its inputs.

    Of two names for the same stage, as of the first round of two rows, the first one is kept.
    """
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in ordered:
            for needed in stage.needed:
                visit(needed)
            ordered[stage.key] = stage

    for goal in goals:
        visit(goal)
    return list(ordered.values())
