"""What a table would take, before anything starts: python -m recipes.plan table=paper cluster=slurm

    stages          left   after             GPU-hours   GiB a GPU   GiB of disk   judge: requests, tokens, USD

Figures are estimates (focalpo/training/cost.py): of memory within 15 % on the shapes it was measured with. Hours are as
good as the rate, operations per second of a rank. Sealed stages of the same kind give it; before there are any, what
`python -m recipes.calibrate` measured on the machine that will do the work. That is the rate of training: generation is
bound by a GPU's memory bandwidth, so its hours at that rate are a lower bound.
"""

import json
import sys
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import yaml

from focalpo.config.compose import CONF
from focalpo.config.schema import Config
from focalpo.planning.needs import Estimate, Need, ranks_of
from focalpo.planning.stages import in_order
from focalpo.planning.table import Planned, planned
from focalpo.running.command import run_command
from focalpo.running.submit import Array, arrays
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.training.cost import checkpoint_bytes

GIB = 1 << 30
RATE = "rate-{}.json"  # beside the runs, of each table: what a rank was measured to do
HEAD = ("stages", "left", "after", "GPU-hours", "GiB a GPU", "GiB of disk", "judge requests", "judge tokens", "USD")


def rate_of(runs: Path, scale: str) -> tuple[float, str]:
    """Operations a second of a rank, and where the figure comes from."""
    measured = runs / RATE.format(scale)
    if measured.is_file():
        told = json.loads(measured.read_text())
        where = f"GPUs {told['hardware']['gpus']}, {told['hardware']['cores']} cores"
        return told["operations_per_second"], f"measured, {measured}: {where}"
    return yaml.safe_load((CONF / "sizes.yaml").read_text())["operations_per_second"], "assumed, conf/sizes.yaml"


@dataclass(frozen=True, slots=True)
class Pace:
    """What sealed stages of a kind took, in seconds of a rank, for the operations that are planned for them."""

    stages: int
    seconds: float
    operations: float

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


def described(plan: Planned) -> str:
    """The graph of what is left, an array a line, and the sums."""
    stages = in_order([plan.report])
    done = {stage.key for stage in stages if Folder(plan.runs, stage).sealed}
    config_of = _configs(plan, stages)
    groups = arrays(stages, done, {})
    for number, group in enumerate(groups, 1):
        group.job = str(number)
    rate, source = rate_of(plan.runs, plan.table.scale)
    paces = _paces(plan.runs, [stage for stage in stages if stage.key in done], config_of)
    lines: list[tuple[str, ...]] = [HEAD]
    needs, hours = [], 0.0
    for group in groups:
        need = _sum([Estimate(config_of[stage.key], plan.runs).of(stage) for stage in group.stages])
        took = need.operations / (paces[group.kind].rate if group.kind in paces else rate) / 3600
        after = ",".join(array.job for array in group.waits_for)
        lines.append((f"{group.job}. {group.kind}", str(len(group.stages)), after, *_figures(need, took)))
        needs.append(replace(need, memory=None))  # ranks of different arrays are not there at once
        hours += took
    lines.append(("sum", str(sum(len(g.stages) for g in groups)), "", *_figures(_sum(needs), hours)))
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [
            f"{len(done)} of {len(stages)} stages of the {plan.table.scale} table are sealed; what is left:",
            *shown,
            *_parts(plan, groups, config_of),
            *_took(paces, rate),
            f"disk besides: {_checkpoints(plan, groups, config_of):.0f} GiB for checkpoints of each run that trains at "
            "the same time",
            f"rate: {rate:.3g} operations a second of a rank ({source}), for kinds of which none is made yet; "
            "nothing was started",
        ]
    )


def _configs(plan: Planned, stages: list[Stage]) -> dict[str, Config]:
    """The configuration under which each stage was planned; stages that rows share go by the first of them."""
    found: dict[str, Config] = {}
    for (setting, row, _), made in plan.rows.items():
        for stage in in_order([made.judge]):
            found.setdefault(stage.key, plan.configs[setting, row])
    return {stage.key: found.get(stage.key, plan.first) for stage in stages}


def _paces(runs: Path, sealed: list[Stage], config_of: dict[str, Config]) -> dict[str, Pace]:
    """By kind. A manifest has the seconds of the last start only: stages that were started again do not count."""
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
        f"{hours:.3g}" if hours else "",
        f"{need.memory.total / GIB:.2f}" if need.memory else "",
        f"{need.disk / GIB:.2f}" if need.disk else "",
        f"{need.requests:,}" if need.requests else "",
        f"{need.tokens:,}" if need.tokens else "",
        f"{need.usd:,.0f}" if need.usd else "",
    )


def _parts(plan: Planned, groups: list[Array], config_of: dict[str, Config]) -> list[str]:
    """The memory of a rank by part, of the first group that trains in each setting."""
    lines = {}
    for group in groups:
        if group.kind == "train":
            config = config_of[group.stages[0].key]
            memory = Estimate(config, plan.runs).of(group.stages[0]).memory
            assert memory is not None
            names = ("parameters", "gradients", "optimizer", "activations", "head")
            told = ", ".join(f"{name} {value / GIB:.2f}" for name, value in zip(names, astuple(memory), strict=True))
            lines.setdefault(config.model.name, f"GiB a GPU while {config.model.name} trains: {told}")
    return list(lines.values())


def _checkpoints(plan: Planned, groups: list[Array], config_of: dict[str, Config]) -> float:
    """GiB of the largest model's checkpoints: while one is written the one before is still there."""
    shapes = [Estimate(config_of[g.stages[0].key], plan.runs).shape for g in groups if g.kind in ("train", "sft")]
    return max((2 * checkpoint_bytes(shape) / GIB for shape in shapes), default=0)


def _took(paces: dict[str, Pace], rate: float) -> list[str]:
    """What sealed stages took, a kind a line, beside what this plan said of them when there were none."""
    return [
        f"made already: {pace.stages} {kind} took {pace.seconds / 3600:.3g} hours of a rank, "
        f"{pace.operations / rate / 3600:.3g} by the rate below"
        for kind, pace in paces.items()
    ]


if __name__ == "__main__":
    run_command(lambda: print(described(planned(sys.argv[1:]))))
