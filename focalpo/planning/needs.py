"""What each stage of a table needs under its configuration: operations, bytes, requests.

focalpo/training/cost.py does the arithmetic, conf/sizes.yaml has the sizes. Nothing is measured here; a sealed stage
says how many pairs it has kept.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from focalpo.config.compose import CONF, plain
from focalpo.config.schema import Config
from focalpo.judging.price import Price
from focalpo.judging.protocol import EVAL, load_protocol
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.training.cost import (
    Batch,
    Memory,
    Shape,
    forward_operations,
    model_bytes,
    training_memory,
    training_operations,
)


@dataclass(slots=True)
class Need:
    """What one stage takes: operations, bytes of a rank and of the disk; requests to the judge, tokens and USD."""

    operations: float = 0.0
    memory: Memory | None = None
    disk: float = 0.0
    requests: int = 0
    tokens: int = 0
    usd: float = 0.0


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
        return Need(operations, self._weights(stage))

    def _sample(self, stage: Stage) -> Need:
        answer = min(stage.settings["decoding"]["max_new_tokens"], self.sizes["answer"])
        count = (self._given("train") + self._given("test")) * (self.data["prompt"] + answer)
        return Need(forward_operations(self.shape, Batch(count, count), answer), self._weights(stage))

    def _weights(self, stage: Stage) -> Memory:
        """What a GPU holds of a model that answers; vLLM fills the rest with its cache."""
        shards = stage.launch.get("tensor_parallel", 1)
        return Memory(model_bytes(self.shape, stage.settings["dtype"]) / shards, 0, 0, 0, 0)

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
            each, endpoint = self.sizes["judge"][name], self.config.judge.endpoint
            requests = each["requests"] * _prompts(self.config, name)
            need.requests += requests
            if endpoint.api_key_env:  # tokens that somebody is paid for
                need.tokens += requests * (each["prompt"] + each["reply"])
                need.usd += Price(**plain(endpoint.price)).usd(requests * each["prompt"], requests * each["reply"])
        return need


def ranks_of(stage: Stage) -> int:
    """Processes with a GPU of their own that make the stage at once."""
    how = stage.launch
    return how.get("ranks", 1) * how.get("tensor_parallel", 1) * how.get("data_parallel", 1)


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
