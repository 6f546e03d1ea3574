"""What a table would take, before anything starts: python -m recipes.plan table=paper cluster=slurm

    stages          left   after             GPU-hours   GiB a GPU   GiB of disk   judge: requests, tokens

Figures are estimates (focalpo/cost.py): of memory within 15 % on the shapes it was measured with; of time as good as
the rate, which `python -m recipes.calibrate` measures on the machine that will do the work.
"""

import json
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

import yaml

from focalpo.artifact import Folder, Stage, read_manifest
from focalpo.config import CONF
from focalpo.cost import (
    Batch,
    Memory,
    Shape,
    checkpoint_bytes,
    forward_operations,
    model_bytes,
    training_memory,
    training_operations,
)
from focalpo.judging.protocol import load_protocol
from focalpo.plan import EVAL, in_order
from focalpo.schema import Config
from recipes.calibrate import CALIBRATION
from recipes.command import explained
from recipes.submit import Array, arrays
from recipes.table import Planned, planned

GIB = 1 << 30
HEAD = ("stages", "left", "after", "GPU-hours", "GiB a GPU", "GiB of disk", "judge requests", "judge tokens")


@dataclass(slots=True)
class Need:
    """What one stage takes: operations, bytes of a rank and of the disk, requests and tokens of the judge."""

    operations: float = 0.0
    memory: Memory | None = None
    disk: float = 0.0
    requests: int = 0
    tokens: int = 0


class Estimate:
    """Needs of stages under one configuration."""

    def __init__(self, config: Config, runs: Path) -> None:
        self.config, self.runs = config, runs
        self.sizes = yaml.safe_load((CONF / "sizes.yaml").read_text())
        self.shape = _shape(config, self.sizes)
        self.device = "cuda" if config.launch.gpus else "cpu"
        data = self.sizes["data"]
        self.data = data.get(config.data.name, data["pocket"])

    def of(self, stage: Stage) -> Need:
        """The stage's needs; stages that take seconds of one core count as nothing."""
        of_kind = {"train": self._train, "sft": self._train, "reference": self._reference}
        of_kind |= {"generate": self._generate, "judge": self._judge}
        return of_kind[stage.kind](stage) if stage.kind in of_kind else Need()

    def _pairs(self, stage: Stage) -> int:
        if "count" in stage.settings.get("data", {}):
            return stage.settings["data"]["count"]
        pairs = Folder(self.runs, stage.inputs["pairs"])
        return read_manifest(pairs.path)["facts"]["train"] if pairs.sealed else self.data["pairs"]

    def _train(self, stage: Stage) -> Need:
        settings, how = stage.settings["train"], stage.launch["train"]
        answers = 1 if stage.kind == "sft" else 2
        tokens, predicted = self.data["prompt"] + answers * self.data["answer"], answers * self.data["answer"]
        pairs = self._pairs(stage) * settings["epochs"]
        if settings["max_steps"]:
            pairs = min(pairs, settings["max_steps"] * settings["global_batch"])
        ranks, recompute = stage.launch["ranks"], how["activation_checkpointing"]
        # The largest micro-batch: the budget, or a rank's whole share of the global batch where that is smaller.
        share = min(how["micro_batch_tokens"], settings["global_batch"] / ranks * tokens)
        micro = Batch(int(share), int(share * predicted / tokens))
        context = self.data["prompt"] + self.data["answer"] / 2
        return Need(
            training_operations(self.shape, Batch(pairs * tokens, pairs * predicted), context, recompute),
            training_memory(self.shape, micro, settings["dtype"], how["zero_stage"], ranks, recompute, self.device),
            model_bytes(self.shape, settings["dtype"]),
        )

    def _reference(self, stage: Stage) -> Need:
        pairs, branches = self._pairs(stage), len(stage.settings["branches"])
        tokens, predicted = self.data["prompt"] + branches * self.data["answer"], branches * self.data["answer"]
        context = self.data["prompt"] + self.data["answer"] / 2
        operations = forward_operations(self.shape, Batch(pairs * tokens, pairs * predicted), context)
        return Need(operations, Memory(model_bytes(self.shape, stage.settings["dtype"]), 0, 0, 0, 0))

    def _generate(self, stage: Stage) -> Need:
        operations = 0.0
        for values in stage.settings["sets"].values():
            answer = min(values["max_new_tokens"], self.sizes["answer"])
            count = _prompts(self.config, values["questions"]) * (answer + self.data["prompt"])
            operations += forward_operations(self.shape, Batch(count, count), answer)
        return Need(operations, Memory(model_bytes(self.shape, stage.settings["dtype"]), 0, 0, 0, 0))

    def _judge(self, stage: Stage) -> Need:
        need = Need()
        for name in stage.settings["protocols"]:
            each, prompts = self.sizes["judge"][name], _prompts(self.config, name)
            need.requests += each["requests"] * prompts
            if self.config.judge.endpoint.api_key_env:  # tokens that somebody is paid for
                need.tokens += each["requests"] * prompts * (each["prompt"] + each["reply"])
        return need


def _prompts(config: Config, benchmark: str) -> int:
    return load_protocol(EVAL / f"{config.judge.benchmarks[benchmark]}.yaml").prompts


def _shape(config: Config, sizes: dict) -> Shape:
    made = config.model.architecture
    if made is None:
        if config.model.name not in sizes["models"]:
            raise ValueError(
                f"conf/sizes.yaml has no shape of {config.model.name}; add it from the model's config.json"
            )
        return Shape(**sizes["models"][config.model.name])
    heads = made.num_attention_heads
    layers, vocabulary = made.num_hidden_layers, sizes["vocabulary"]
    return Shape(layers, made.hidden_size, made.intermediate_size, heads, heads, vocabulary, tied=True)


def rate_of(runs: Path) -> tuple[float, str]:
    """Operations a second of a rank, and where the figure comes from."""
    measured = runs / CALIBRATION
    if measured.is_file():
        return json.loads(measured.read_text())["operations_per_second"], f"measured, {measured}"
    return yaml.safe_load((CONF / "sizes.yaml").read_text())["operations_per_second"], "assumed, conf/sizes.yaml"


def described(plan: Planned) -> str:
    """The graph of what is left, an array a line, and the sums."""
    stages = in_order([plan.report])
    done = {stage.key for stage in stages if Folder(plan.runs, stage).sealed}
    config_of = _configs(plan, stages)
    groups = arrays(stages, done, {})
    for number, group in enumerate(groups, 1):
        group.job = str(number)
    rate, source = rate_of(plan.runs)
    lines: list[tuple[str, ...]] = [HEAD]
    total = Need()
    largest = 0.0
    for group in groups:
        needs = [Estimate(config_of[stage.key], plan.runs).of(stage) for stage in group.stages]
        for need in needs:
            total.operations += need.operations
            total.disk += need.disk
            total.requests += need.requests
            total.tokens += need.tokens
        if group.kind in ("train", "sft"):
            shape = Estimate(config_of[group.stages[0].key], plan.runs).shape
            largest = max(largest, 2 * checkpoint_bytes(shape))
        lines.append(_line(group, needs, rate))
    lines.append(("sum", str(sum(len(g.stages) for g in groups)), "", *_figures(total, rate)))
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    parts = _parts(plan, groups, config_of)
    return "\n".join(
        [
            f"{len(done)} of {len(stages)} stages of the {plan.table.scale} table are sealed; what is left:",
            *shown,
            *parts,
            f"disk besides: {largest / GIB:.0f} GiB for checkpoints of each run that trains at the same time",
            f"rate: {rate:.3g} operations a second of a rank ({source}); nothing was started",
        ]
    )


def _configs(plan: Planned, stages: list[Stage]) -> dict[str, Config]:
    """The configuration under which each stage was planned; stages that rows share go by the first of them."""
    found: dict[str, Config] = {}
    for (setting, row, _), made in plan.rows.items():
        for stage in in_order([made.judge]):
            found.setdefault(stage.key, plan.configs[setting, row])
    return {stage.key: found.get(stage.key, plan.first) for stage in stages}


def _line(group: Array, needs: list[Need], rate: float) -> tuple[str, ...]:
    total = Need(
        sum(need.operations for need in needs),
        max((need.memory for need in needs if need.memory), key=lambda memory: memory.total, default=None),
        sum(need.disk for need in needs),
        sum(need.requests for need in needs),
        sum(need.tokens for need in needs),
    )
    after = ",".join(array.job for array in group.waits_for)
    return (f"{group.job}. {group.kind}", str(len(group.stages)), after, *_figures(total, rate))


def _figures(need: Need, rate: float) -> tuple[str, ...]:
    hours = need.operations / rate / 3600
    return (
        f"{hours:.3g}" if hours else "",
        f"{need.memory.total / GIB:.2f}" if need.memory else "",
        f"{need.disk / GIB:.2f}" if need.disk else "",
        f"{need.requests:,}" if need.requests else "",
        f"{need.tokens:,}" if need.tokens else "",
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


if __name__ == "__main__":
    explained(lambda: print(described(planned(sys.argv[1:]))))
