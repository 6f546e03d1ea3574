"""The workload that both engines train on: the same random weights, pairs, order of pairs and reference.

Random weights get random token ids, because speed depends on lengths alone; the lengths are drawn from a named
distribution or are those of real pairs. A released model gets real pairs.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from focalpo.config.bench import Lengths, Shape
from focalpo.data.trees import Ids, Tree
from focalpo.stages.reading import read_json
from focalpo.training.model import ModelSource, load_model
from focalpo.training.ranks import device
from focalpo.training.settings import TrainSettings
from focalpo.training.steps import global_batch_at

SPECIAL = 3  # ids below are pad, bos and eos
SHORTEST = 4  # tokens; real prompts and responses have at least those of the template


@dataclass(slots=True)
class Workload:
    """One training run to time: `steps` are timed, after one that is not. Its pairs are random tokens of these
    `lengths`, or, for the model in the folder `model`, real `tokens`: prompt, chosen, rejected. `gamma` is FocalPO's, 0
    for DPO."""

    shape: Shape
    lengths: list[tuple[int, int, int]]
    train: TrainSettings
    steps: int
    seed: int
    gamma: float = 0.0
    model: str | None = None
    tokens: list[list[list[int]]] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        return self.train.global_batch * (self.steps + 1)


def draw(lengths: Lengths, pairs: int, scale: float, seed: int) -> list[tuple[int, int, int]]:
    """Draw the lengths in tokens (prompt, chosen, rejected) of `pairs` pairs, scaled by `scale`."""
    rng = np.random.default_rng(seed)
    longest = int(lengths.longest * scale)

    def sample(mean: float, sigma: float, cap: int) -> int:
        # A log-normal's mean is exp(mu + sigma^2 / 2).
        return int(np.clip(round(rng.lognormal(math.log(mean * scale) - sigma**2 / 2, sigma)), SHORTEST, cap))

    found = []
    for _ in range(pairs):
        prompt = sample(lengths.prompt, lengths.prompt_sigma, longest // 2)
        chosen, rejected = (sample(lengths.response, lengths.response_sigma, longest - prompt) for _ in range(2))
        found.append((prompt, chosen, rejected))
    return found


def trees_of(workload: Workload) -> list[Tree]:
    """The workload's pairs as trees, in training order."""
    if workload.model is None:
        return random_trees(workload.lengths, workload.shape.vocab_size, workload.seed)
    arrays = [[np.array(ids, np.int32) for ids in each] for each in workload.tokens]
    return [Tree(f"pair-{n}", p, {"chosen": c, "rejected": r}) for n, (p, c, r) in enumerate(arrays)]


def tokens_of(trees: Sequence[Tree]) -> list[list[list[int]]]:
    """What `Workload.tokens` holds of trees."""
    return [[ids.tolist() for ids in (t.prompt, t.branches["chosen"], t.branches["rejected"])] for t in trees]


def random_trees(lengths: Sequence[tuple[int, int, int]], vocabulary: int, seed: int) -> list[Tree]:
    """Trees of random tokens with these lengths."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> Ids:
        return rng.integers(SPECIAL, vocabulary, count).astype(np.int32)

    return [
        Tree(f"pair-{place}", ids(prompt), {"chosen": ids(chosen), "rejected": ids(rejected)})
        for place, (prompt, chosen, rejected) in enumerate(lengths)
    ]


def shuffled(items: Sequence, global_batch: int, seed: int) -> list:
    """Place the items so that the engine's own permutation of the first epoch restores their order."""
    steps = len(items) // global_batch
    order = [place for step in range(steps) for place in global_batch_at(step, len(items), global_batch, seed)]
    placed = list(items)
    for item, place in zip(items, order, strict=True):
        placed[place] = item
    return placed


def shape_of(folder: str) -> Shape:
    """The shape of the model in a folder.

    Raises:
        ValueError: when it has no configuration, or one without the fields of a shape.
    """
    remedy = f"model={folder} must be a folder of a causal LM, such as the stage convert writes"
    values = read_json(Path(folder) / "config.json", remedy)
    missing = [each.name for each in fields(Shape) if each.name not in values]
    if missing:
        raise ValueError(f"{folder}/config.json has no {missing[0]}; choose another model")
    return Shape(**{each.name: values[each.name] for each in fields(Shape)})


def policy_model(workload: Workload, dtype: str) -> PreTrainedModel:
    """The model that a workload trains, on its device."""
    return _released(workload, dtype) if workload.model else new_model(workload.shape, workload.seed, dtype)


def reference_model(workload: Workload, dtype: str) -> PreTrainedModel:
    """The workload's frozen model: the released one; of random weights others, or any first loss would be log 2."""
    return _released(workload, dtype) if workload.model else new_model(workload.shape, workload.seed + 1, dtype)


def _released(workload: Workload, dtype: str) -> PreTrainedModel:
    assert workload.model
    return load_model(ModelSource(workload.model), dtype).to(device())


def new_model(shape: Shape, seed: int, dtype: str) -> PreTrainedModel:
    """Make a model with random weights, equal for equal seeds up to the rounding of the dtype, directly on its device.
    They are drawn in fp32: in bf16 the same seed draws other numbers."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        **asdict(shape),
        max_position_embeddings=1 << 15,
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # not its buffers: a rotary table stays in fp32
        parameter.data = parameter.data.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    return model


def write(workload: Workload, path: Path) -> None:
    path.write_text(json.dumps(asdict(workload)))


def read(path: Path) -> Workload:
    values = json.loads(path.read_text())
    lengths = [tuple(each) for each in values.pop("lengths")]
    return Workload(Shape(**values.pop("shape")), lengths, TrainSettings(**values.pop("train")), **values)
