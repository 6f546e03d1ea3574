"""Estimate what a table takes before anything starts: python -m recipes.plan table=paper cluster=slurm

    stages          left   after             GPU-hours   GiB a GPU   GiB of disk   judge: requests, tokens, USD

All figures are estimates (focalpo/training/cost.py, memory.py); memory is within 15 % on the shapes it was measured
with, and a training that needs more than 90 % of a GPU (launch.gpu_gib) is named with what fits instead. Hours are as
good as the rate, in operations per second of a rank. The rate comes from sealed stages of the same kind or, before
there are any, from what `python -m recipes.calibrate` measured on the machine that will do the work. That is the rate
of training: generation is bound by a GPU's memory bandwidth, so its hours at that rate are a lower bound.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from focalpo.config.compose import CONF
from focalpo.config.schema import Config
from focalpo.planning.fitting import advice
from focalpo.planning.needs import Estimate, Need
from focalpo.planning.ranks import ranks_of
from focalpo.planning.stages import in_order
from focalpo.planning.table import Planned, planned
from focalpo.running.arrays import Array, arrays
from focalpo.running.command import run_command
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.stages.reading import read_json, read_yaml
from focalpo.training.cost import checkpoint_bytes

GIB = 1 << 30
RATE = "rate-{}.json"  # in the runs folder, one per table: the measured rate of a rank
HEAD = ("stages", "left", "after", "GPU-hours", "GiB a GPU", "GiB of disk", "judge requests", "judge tokens", "USD")


def rate_of(runs: Path, scale: str, gpus: float) -> tuple[float, str]:
    """Operations per second of a rank on `gpus` GPUs, and the source of the figure."""
    measured = runs / RATE.format(scale)
    if measured.is_file():
        values = read_json(measured, "delete it and run `python -m recipes.calibrate` again")
        where = f"GPUs {values['hardware']['gpus']}, {values['hardware']['cores']} cores"
        return values["operations_per_second"], f"measured, {measured}: {where}"
    assumed = read_yaml(CONF / "sizes.yaml", "correct it")["operations_per_second"]
    return assumed["gpu" if gpus else "cpu"], "assumed, conf/sizes.yaml"


def hours_shown(hours: float) -> str:
    """Hours for people to read: two digits after the point, and none where they say nothing."""
    if 0 < hours < 0.01:
        return "<0.01"
    return f"{hours:.2f}" if hours < 10 else f"{hours:,.0f}"


@dataclass(frozen=True, slots=True)
class Pace:
    """The rank-seconds that sealed stages of a kind took, and the operations planned for them."""

    stages: int
    seconds: float
    operations: float

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


def described(plan: Planned) -> str:
    """The plan as text: the graph of the stages left, one array per line, and the sums."""
    stages = in_order([plan.report])
    done = {stage.key for stage in stages if Folder(plan.runs, stage).sealed}
    config_of = _configs(plan, stages)
    groups = arrays(stages, done, {})
    for number, group in enumerate(groups, 1):
        group.job = str(number)
    rate, source = rate_of(plan.runs, plan.table.scale, plan.first.launch.gpus)
    paces = _paces(plan.runs, [stage for stage in stages if stage.key in done], config_of)
    lines: list[tuple[str, ...]] = [tuple(_of_ranks(plan, words) for words in HEAD)]
    needs, hours = [], 0.0
    for group in groups:
        need = _sum([Estimate(config_of[stage.key], plan.runs).of(stage) for stage in group.stages])
        group_hours = need.operations / (paces[group.kind].rate if group.kind in paces else rate) / 3600
        after = ",".join(array.job for array in group.waits_for)
        lines.append((f"{group.job}. {group.kind}", str(len(group.stages)), after, *_figures(need, group_hours)))
        needs.append(replace(need, memory=None))  # ranks of different arrays do not run at once
        hours += group_hours
    lines.append(("sum", str(sum(len(g.stages) for g in groups)), "", *_figures(_sum(needs), hours)))
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [
            f"{len(done)} of {len(stages)} stages of the {plan.table.scale} table are sealed; what is left:",
            *shown,
            *_trainings(plan, groups, config_of),
            *_replies(plan, groups, config_of),
            *_sealed_kinds(paces, rate),
            f"additional disk: {_checkpoints(plan, groups, config_of):.0f} GiB for the checkpoints of each training in "
            "progress",
            f"rate: {rate:.3g} operations per second of a rank ({source}), for kinds without a sealed stage; "
            "nothing was started",
        ]
    )


def _of_ranks(plan: Planned, words: str) -> str:
    """A heading about GPUs, which are ranks where a scale has none."""
    return words if plan.first.launch.gpus else words.replace("GPU", "rank")


def _configs(plan: Planned, stages: list[Stage]) -> dict[str, Config]:
    """The configuration under which each stage was planned; for shared stages, that of the first row."""
    found: dict[str, Config] = {}
    for (setting, row, _), stages_of_row in plan.rows.items():
        for stage in in_order(stages_of_row.stages()):
            found.setdefault(stage.key, plan.configs[setting, row])
    return {stage.key: found.get(stage.key, plan.first) for stage in stages}


def _paces(runs: Path, sealed: list[Stage], config_of: dict[str, Config]) -> dict[str, Pace]:
    """The pace of each kind, without restarted stages: a manifest has the seconds of the last start only."""
    found: dict[str, Pace] = {}
    for stage in sealed:
        manifest, need = read_manifest(Folder(runs, stage).path), Estimate(config_of[stage.key], runs).of(stage)
        if need.operations and manifest["starts"] == 1:
            before = found.get(stage.kind, Pace(0, 0.0, 0.0))
            seconds = manifest["seconds"] * ranks_of(stage)
            found[stage.kind] = Pace(before.stages + 1, before.seconds + seconds, before.operations + need.operations)
    return found


def _sum(needs: list[Need]) -> Need:
    return Need(
        sum(need.operations for need in needs),
        max((need.memory for need in needs if need.memory), key=lambda memory: memory.total, default=None),
        sum(need.disk for need in needs),
        sum(need.requests for need in needs),
        sum(need.tokens for need in needs),
        sum(need.usd for need in needs),
    )


def _figures(need: Need, hours: float) -> tuple[str, ...]:
    return (
        hours_shown(hours) if hours else "",
        f"{need.memory.total / GIB:.2f}" if need.memory else "",
        f"{need.disk / GIB:.2f}" if need.disk else "",
        f"{need.requests:,}" if need.requests else "",
        f"{need.tokens:,}" if need.tokens else "",
        f"{need.usd:,.0f}" if need.usd else "",
    )


def _trainings(plan: Planned, groups: list[Array], config_of: dict[str, Config]) -> list[str]:
    """Of the first training of each model: memory by part, what fits where it does not, and micro-steps."""
    first: dict[str, Stage] = {}
    for stage in (stage for group in groups if group.kind == "train" for stage in group.stages):
        first.setdefault(config_of[stage.key].model.name, stage)
    lines = []
    for name, stage in first.items():
        estimate = Estimate(config_of[stage.key], plan.runs)
        memory, pairs = estimate.memory(stage), stage.settings["train"]["global_batch"]
        peak = memory.peak
        parts = ", ".join(f"{part} {value / GIB:.2f}" for part, value in peak.parts.items() if value)
        lines.append(f"{_of_ranks(plan, 'GiB a GPU')} while {name} trains, at its peak ({peak.moment}): {parts}")
        if memory.host:
            lines.append(f"GiB of the host's memory for each GPU while {name} trains: {memory.host / GIB:.2f}")
        if warning := advice(estimate, stage):
            lines.append(f"warning: {name} does not fit: {warning}")
        source = "lengths of the sealed pairs" if estimate.sealed_trees(stage) else "lengths assumed, conf/sizes.yaml"
        lines.append(f"micro-steps of {name} in global batches of {pairs} pairs: {estimate.dealt(stage)} ({source})")
    return lines


def _replies(plan: Planned, groups: list[Array], config_of: dict[str, Config]) -> list[str]:
    """What the price of paid judging assumes about its replies."""
    judged = [stage for group in groups if group.kind == "judge" for stage in group.stages]
    paid = [stage for stage in judged if config_of[stage.key].judge.endpoint.api_key_env]
    found = [Estimate(config_of[stage.key], plan.runs).replies(stage) for stage in paid]
    lines = dict.fromkeys(", ".join(f"{name} {tokens}" for name, tokens in replies.items()) for replies in found)
    return [f"tokens of a judge's reply, assumed (judge.endpoint.price): {line}" for line in lines]


def _checkpoints(plan: Planned, groups: list[Array], config_of: dict[str, Config]) -> float:
    """GiB of the largest model's checkpoints: two, because the previous one is kept while the next is written."""
    shapes = [Estimate(config_of[g.stages[0].key], plan.runs).shape for g in groups if g.kind in ("train", "sft")]
    return max((2 * checkpoint_bytes(shape) / GIB for shape in shapes), default=0)


def _sealed_kinds(paces: dict[str, Pace], rate: float) -> list[str]:
    """What sealed stages took, one line per kind, beside their estimate at the default rate."""
    return [
        f"{pace.stages} sealed {kind} stages took {hours_shown(pace.seconds / 3600)} rank-hours, "
        f"{hours_shown(pace.operations / rate / 3600)} at the rate below"
        for kind, pace in paces.items()
    ]


if __name__ == "__main__":
    run_command(lambda: print(described(planned(sys.argv[1:]))))
