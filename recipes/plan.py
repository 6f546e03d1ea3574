"""What a table would take, before anything starts: python -m recipes.plan table=paper cluster=slurm

    stages          left   after             GPU-hours   GiB a GPU   GiB of disk   judge: requests, tokens

Figures are estimates (focalpo/cost.py): of memory within 15 % on the shapes it was measured with; of time as good as
the rate, which `python -m recipes.calibrate` measures on the machine that will do the work. It is the rate of training:
answers are bound by a GPU's memory, so that their hours are the least that they can take.
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
from recipes.command import explained
from recipes.submit import Array, arrays
from recipes.table import Planned, planned

GIB = 1 << 30
RATE = "rate.json"  # beside the runs: what a rank of this machine was measured to do
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
        self.data = self.sizes["data"][config.data.name]

    def of(self, stage: Stage) -> Need:
        """The stage's needs; stages that take seconds of one core count as nothing."""
        of_kind = {"train": self._train, "sft": self._train, "reference": self._reference}
        of_kind |= {"generate": self._generate, "judge": self._judge, "sample": self._sample, "reward": self._reward}
        return of_kind[stage.kind](stage) if stage.kind in of_kind else Need()

    def _pairs(self, stage: Stage, split: str = "train") -> int:
        if "count" in stage.settings.get("data", {}):
            return stage.settings["data"]["count"]
        pairs = Folder(self.runs, stage.inputs["pairs"])
        if pairs.sealed:
            return read_manifest(pairs.path)["facts"][split]
        return self._given(split)

    def _given(self, split: str) -> int:
        """Pairs of the data set, before any are dropped."""
        return min(self.data[split], self.config.data.limit or self.data[split])

    def _train(self, stage: Stage) -> Need:
        settings, how = stage.settings["train"], stage.launch["train"]
        answers = 1 if stage.kind == "sft" else 2
        tokens, predicted = self.data["prompt"] + answers * self.data["answer"], answers * self.data["answer"]
        pairs = self._pairs(stage) * settings["epochs"]
        if settings["max_steps"]:
            pairs = min(pairs, settings["max_steps"] * settings["global_batch"])
        ranks, recompute, micro = stage.launch["ranks"], how["activation_checkpointing"], self.micro_batch(stage)
        context = self.data["prompt"] + self.data["answer"] / 2
        looks = self._looks(stage, pairs // settings["global_batch"])
        lora = stage.settings.get("lora")
        adapters = self.shape.adapters(lora["rank"], lora["targets"]) if lora else 0
        memory = training_memory(
            self.shape, micro, settings["dtype"], how["zero_stage"], ranks, recompute, self.device, adapters
        )
        return Need(
            training_operations(self.shape, Batch(pairs * tokens, pairs * predicted), context, recompute)
            + forward_operations(self.shape, Batch(looks * tokens, looks * predicted), context),
            memory,
            model_bytes(self.shape, settings["dtype"]),
        )

    def _looks(self, stage: Stage, steps: int) -> int:
        """Pairs scored on the way, for the ranking dynamics: at the first step, the last, and every so many."""
        if "dynamics" not in stage.settings:
            return 0
        every = stage.settings["dynamics"]["every"]
        times = 2 + ((steps - 1) // every if every else 0)
        return times * (stage.settings["dynamics"]["train_pairs"] + self._pairs(stage, "test"))

    def micro_batch(self, stage: Stage) -> Batch:
        """The largest of a training stage: the budget, or a rank's whole share of the global batch if less."""
        answers = (1 if stage.kind == "sft" else 2) * self.data["answer"]
        tokens = self.data["prompt"] + answers
        share = stage.settings["train"]["global_batch"] / stage.launch["ranks"] * tokens
        micro = int(min(stage.launch["train"]["micro_batch_tokens"], share))
        return Batch(micro, int(micro * answers / tokens))

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

    def _sample(self, stage: Stage) -> Need:
        answer = min(stage.settings["decoding"]["max_new_tokens"], self.sizes["answer"])
        count = (self._given("train") + self._given("test")) * (self.data["prompt"] + answer)
        operations = forward_operations(self.shape, Batch(count, count), answer)
        return Need(operations, Memory(model_bytes(self.shape, stage.settings["dtype"]), 0, 0, 0, 0))

    def _reward(self, stage: Stage) -> Need:
        reward = stage.settings["reward"]
        shape = _released(reward["path"], self.sizes)
        texts = len(stage.settings["seeds"]) * (self._given("train") + self._given("test"))
        each = self.data["prompt"] + self.data["answer"]
        operations = forward_operations(shape, Batch(texts * each, 0), each / 2)
        return Need(operations, Memory(model_bytes(shape, reward["dtype"]), 0, 0, 0, 0))

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
        return _released(config.model.name, sizes)
    heads = made.num_attention_heads
    layers, vocabulary = made.num_hidden_layers, sizes["vocabularies"][config.model.tokenizer]
    return Shape(layers, made.hidden_size, made.intermediate_size, heads, heads, vocabulary, tied=True)


def _released(name: str, sizes: dict) -> Shape:
    if name not in sizes["models"]:
        raise ValueError(f"conf/sizes.yaml has no shape of {name}; add it from the model's config.json")
    return Shape(**sizes["models"][name])


def rate_of(runs: Path) -> tuple[float, str]:
    """Operations a second of a rank, and where the figure comes from."""
    measured = runs / RATE
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
    parts = _parts(plan, groups, config_of) + _took(plan, [s for s in stages if s.key in done], config_of, rate)
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


def _took(plan: Planned, sealed: list[Stage], config_of: dict[str, Config], rate: float) -> list[str]:
    """What sealed stages took, a kind a line, beside what this plan would have said of them."""
    lines = []
    for kind in ("sft", "reference", "train", "generate"):
        stages = [stage for stage in sealed if stage.kind == kind]
        seconds = sum(read_manifest(Folder(plan.runs, s).path)["seconds"] * s.launch.get("ranks", 1) for s in stages)
        said = sum(Estimate(config_of[stage.key], plan.runs).of(stage).operations for stage in stages) / rate
        if stages:
            hours = f"{seconds / 3600:.3g} hours of a rank, {said / 3600:.3g} planned"
            lines.append(f"made already: {len(stages)} {kind} took {hours}")
    return lines


if __name__ == "__main__":
    explained(lambda: print(described(planned(sys.argv[1:]))))
