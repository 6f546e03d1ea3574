"""Estimate what each stage of a table needs: operations, bytes, requests to the judge.

focalpo/training/cost.py does the arithmetic and conf/sizes.yaml has the sizes. Nothing is measured here; the only
observed number is how many pairs a sealed stage kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from focalpo.config.compose import CONF, plain
from focalpo.config.schema import Config
from focalpo.judging.price import assumed_reply, price_of
from focalpo.judging.protocol import CheckedProtocol
from focalpo.planning.slices import protocol_named
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.stages.reading import read_yaml
from focalpo.training.cost import (
    Batch,
    Shape,
    forward_operations,
    model_bytes,
    quantised_bytes,
    training_operations,
)
from focalpo.training.memory import Memory, training_memory, weights_only
from focalpo.training.settings import OPTIMIZERS

BOTH_ORDERS = 2
"""Requests about a prompt of a duel, at most: nothing is asked about equal answers."""

if TYPE_CHECKING:  # numpy and torch: a login node that submits a search may have neither, and needs no memory
    from focalpo.planning.lengths import Dealt, Lengths


@dataclass(slots=True)
class Need:
    """What one stage needs: operations, bytes per rank and on disk, and judge requests with their tokens and USD."""

    operations: float = 0.0
    memory: Memory | None = None
    disk: float = 0.0
    requests: int = 0
    tokens: int = 0
    usd: float = 0.0


class Estimate:
    """Estimates what stages need under one configuration."""

    def __init__(self, config: Config, runs: Path) -> None:
        self.config, self.runs = config, runs
        self.sizes = read_yaml(CONF / "sizes.yaml", "correct it")
        self.shape = _shape(config, self.sizes)
        self.device = "cuda" if config.launch.gpus else "cpu"
        self.data = self.sizes["data"][config.data.name]

    @property
    def lengths(self) -> "Lengths":
        """The lengths that the data is assumed to have."""
        from focalpo.planning.lengths import Lengths

        assumed = {name: self.data[name] for name in ("prompt", "prompt_sigma", "answer", "answer_sigma")}
        limits = {"max_prompt": self.config.data.max_prompt_length, "max_length": self.config.data.max_length}
        return Lengths(**assumed, **limits)

    def of(self, stage: Stage) -> Need:
        """Estimate the stage's needs; stages that take seconds on one core count as zero."""
        estimators = {"train": self._train, "sft": self._train, "reference": self._reference}
        estimators |= {"generate": self._generate, "judge": self._judge, "duel": self._judge}
        estimators |= {"sample": self._sample, "reward": self._reward}
        estimators |= {"capability": self._capability, "anchors": self._anchors}
        return estimators[stage.kind](stage) if stage.kind in estimators else Need()

    def pairs(self, stage: Stage, split: str = "train") -> int:
        """The pairs of a stage's split: of the sealed ones, or of the data set before any are dropped."""
        if "count" in stage.settings.get("data", {}):
            return stage.settings["data"]["count"]
        pairs = Folder(self.runs, stage.inputs["pairs"])
        if pairs.sealed:
            return read_manifest(pairs.path)["facts"][split]
        return self._given(split)

    def _given(self, split: str) -> int:
        """Pairs in the data set before any are dropped."""
        return min(self.data[split], getattr(self.config.data, "limit", None) or self.data[split])

    def _train(self, stage: Stage) -> Need:
        size = model_bytes(self.shape, stage.settings["train"]["dtype"])
        return Need(self.training(stage), self.memory(stage), size)

    def training(self, stage: Stage) -> float:
        """The operations of a training stage."""
        settings, execution = stage.settings["train"], stage.launch["train"]
        answers = answers_of(stage)
        tokens, predicted = self.data["prompt"] + answers * self.data["answer"], answers * self.data["answer"]
        pairs = self.pairs(stage) * settings["epochs"]
        if settings["max_steps"]:
            pairs = min(pairs, settings["max_steps"] * settings["global_batch"])
        recompute = execution["activation_checkpointing"]
        context = self.data["prompt"] + self.data["answer"] / 2
        scored = self._scored_pairs(stage, pairs // settings["global_batch"])
        trained = training_operations(self.shape, Batch(pairs * tokens, pairs * predicted), context, recompute)
        return trained + forward_operations(self.shape, Batch(scored * tokens, scored * predicted), context)

    def _scored_pairs(self, stage: Stage, steps: int) -> int:
        """Pairs scored for the ranking dynamics: at the start, at the end and every `dynamics.every` steps."""
        if "dynamics" not in stage.settings:
            return 0
        every = stage.settings["dynamics"]["every"]
        times = 2 + ((steps - 1) // every if every else 0)
        return times * (stage.settings["dynamics"]["train_pairs"] + self.pairs(stage, "test"))

    def memory(self, stage: Stage, ranks: int | None = None, lora: dict | None = None, **execution: int) -> Memory:
        """The memory of a rank in a training stage, as planned or with other ranks, adapters or execution settings."""
        ranks, lora = ranks or stage.launch["ranks"], lora or stage.settings.get("lora")
        settings, how = stage.settings["train"], stage.launch["train"] | execution
        return training_memory(
            self.shape,
            self.micro_batch(stage, ranks, how["micro_batch_tokens"], how["sequence_ranks"]),
            settings["dtype"],
            how["zero_stage"],
            ranks,
            how["activation_checkpointing"],
            self.device,
            self.shape.adapters(lora["rank"], lora["targets"]) if lora else 0,
            quantised="quantization" in (lora or {}),
            optimizer=settings.get("optimizer", OPTIMIZERS[0]),
            offload=how["offload_optimizer"],
        )

    def micro_batch(
        self, stage: Stage, ranks: int | None = None, budget: int | None = None, together: int | None = None
    ) -> Batch:
        """A rank's share of a training stage's largest micro-batch, which `together` ranks compute."""
        together = together or stage.launch["train"]["sequence_ranks"]
        tokens = -(-self.dealt(stage, ranks, budget, together).largest // together)
        answers = answers_of(stage) * self.data["answer"]
        return Batch(tokens, int(tokens * answers / (self.data["prompt"] + answers)))

    def dealt(
        self, stage: Stage, ranks: int | None = None, budget: int | None = None, together: int | None = None
    ) -> "Dealt":
        """How a training stage's global batches fall into micro-steps."""
        from focalpo.planning.lengths import deal_assumed, deal_sealed

        execution = stage.launch["train"]
        budget = budget or execution["micro_batch_tokens"]
        batch = stage.settings["train"]["global_batch"]
        groups = (ranks or stage.launch["ranks"]) // (together or execution["sequence_ranks"])
        if (trees := self.sealed_trees(stage)) is not None:
            return deal_sealed(trees, stage.settings["seed"], batch, groups, budget)
        return deal_assumed(self.lengths, answers_of(stage), batch, groups, budget)

    def sealed_trees(self, stage: Stage) -> Path | None:
        """The file of the pairs that the stage trains on, if they are sealed."""
        pairs = stage.inputs.get("pairs")
        if stage.kind != "train" or pairs is None or not Folder(self.runs, pairs).sealed:
            return None
        return Folder(self.runs, pairs).path / "train_trees.parquet"

    def _reference(self, stage: Stage) -> Need:
        pairs, branches = self.pairs(stage), len(stage.settings["branches"])
        tokens, predicted = self.data["prompt"] + branches * self.data["answer"], branches * self.data["answer"]
        context = self.data["prompt"] + self.data["answer"] / 2
        operations = forward_operations(self.shape, Batch(pairs * tokens, pairs * predicted), context)
        held = quantised_bytes if "quantization" in stage.settings else model_bytes
        return Need(operations, weights_only(held(self.shape, stage.settings["dtype"])))

    def _anchors(self, stage: Stage) -> Need:
        anchor = stage.settings["anchor"]
        rows = anchor["rows"] * len(anchor["lengths"]) / anchor["subset"]["processes"]
        batch = Batch(rows * (self.data["prompt"] + 2 * self.data["answer"]), rows * 2 * self.data["answer"])
        operations = forward_operations(self.shape, batch, self.data["prompt"] + self.data["answer"] / 2)
        return Need(operations, weights_only(model_bytes(self.shape, stage.settings["dtype"])))

    def _generate(self, stage: Stage) -> Need:
        operations = 0.0
        for values in stage.settings["sets"].values():
            answer = min(values["max_new_tokens"], self.sizes["answer"])
            count = protocol_named(self.config, values["questions"]).prompts * (answer + self.data["prompt"])
            operations += forward_operations(self.shape, Batch(count, count), answer)
        return Need(operations, self._weights(stage))

    def _sample(self, stage: Stage) -> Need:
        answer = min(stage.settings["decoding"]["max_new_tokens"], self.sizes["answer"])
        each = self.data["prompt"] + len(stage.settings["seeds"]) * answer  # samples share the prompt's prefill
        count = (self._given("train") + self._given("test")) * each
        return Need(forward_operations(self.shape, Batch(count, count), answer), self._weights(stage))

    def _weights(self, stage: Stage) -> Memory:
        """The weights that each GPU holds during generation; vLLM fills the rest of its memory with its cache."""
        shards = stage.launch.get("tensor_parallel", 1)
        return weights_only(model_bytes(self.shape, stage.settings["dtype"]) / shards)

    def _reward(self, stage: Stage) -> Need:
        reward = stage.settings.get("reward")
        if reward is None:  # checked by code
            return Need()
        shape = _released(reward["path"], self.sizes)
        texts = len(stage.settings["seeds"]) * (self._given("train") + self._given("test"))
        each = self.data["prompt"] + self.data["answer"]
        operations = forward_operations(shape, Batch(texts * each, 0), each / 2)
        return Need(operations, weights_only(model_bytes(shape, reward["dtype"])))

    def _capability(self, stage: Stage) -> Need:
        operations, limit = 0.0, stage.settings["limit"]
        for name in stage.settings["tasks"]:
            if name not in self.sizes["capability"]:
                raise ValueError(f"conf/sizes.yaml has no capability.{name}; add its documents and tokens")
            each = self.sizes["capability"][name]
            documents = min(each["documents"], limit * each["sets"]) if limit else each["documents"]
            count = documents * each["requests"] * each["tokens"]
            operations += forward_operations(self.shape, Batch(count, count), each["tokens"] / 2)
        return Need(operations, self._weights(stage))

    def _judge(self, stage: Stage) -> Need:
        need, endpoint = Need(), self.config.judge.endpoint
        price, replies = price_of(plain(endpoint)), self.replies(stage)
        for name in stage.settings["protocols"]:
            each = self.sizes["judge"][name]
            games = BOTH_ORDERS if stage.kind == "duel" else each["requests"]
            requests = games * protocol_named(self.config, name).prompts
            need.requests += requests
            if endpoint.api_key_env:  # a paid endpoint
                need.tokens += requests * (each["prompt"] + replies[name])
                need.usd += price.usd(requests * each["prompt"], requests * replies[name])
        return need

    def replies(self, stage: Stage) -> dict[str, int]:
        """The tokens that a reply to a judge stage is assumed to have, by benchmark."""
        price, found = price_of(plain(self.config.judge.endpoint)), {}
        for name in stage.settings["protocols"]:
            protocol = protocol_named(self.config, name)
            assert not isinstance(protocol, CheckedProtocol), "a judge stage has protocols of judges"
            found[name] = assumed_reply(protocol, price)
        return found


def answers_of(stage: Stage) -> int:
    """Branches of a training stage's trees."""
    pairs = stage.inputs.get("pairs")
    return 1 if stage.kind == "sft" or (pairs and pairs.settings["data"]["source"] == "unpaired") else 2


def _shape(config: Config, sizes: dict) -> Shape:
    architecture = config.model.architecture
    if architecture is None:
        return _released(config.model.name, sizes)
    heads = architecture.num_attention_heads
    layers, vocabulary = architecture.num_hidden_layers, sizes["vocabularies"][config.model.tokenizer]
    return Shape(layers, architecture.hidden_size, architecture.intermediate_size, heads, heads, vocabulary, tied=True)


def _released(name: str, sizes: dict) -> Shape:
    if name not in sizes["models"]:
        raise ValueError(f"conf/sizes.yaml has no shape for {name}; add it from the model's config.json")
    return Shape(**sizes["models"][name])
