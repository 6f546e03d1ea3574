"""The schema of conf/bench: what the speed benchmark compares, on which model and which lengths."""

from dataclasses import dataclass

from focalpo.stages.ranges import Count, DtypeOrNone, NotNegative, Positive, Seed, ZeroStage
from focalpo.training import cost
from focalpo.training.settings import TrainSettings


@dataclass(slots=True)
class Shape:
    """The architecture of a randomly initialised model, with the field names of a transformers config."""

    model_type: str
    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    tie_word_embeddings: bool

    @property
    def dimensions(self) -> cost.Shape:
        """The same architecture as the input of the cost model."""
        return cost.Shape(
            layers=self.num_hidden_layers,
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            vocabulary=self.vocab_size,
            tied=self.tie_word_embeddings,
        )


@dataclass(slots=True)
class Lengths:
    """Log-normal lengths in tokens: means of prompts and responses, standard deviations of their logarithms, and the
    maximum of prompt + response."""

    prompt: Positive
    response: Positive
    prompt_sigma: NotNegative
    response_sigma: NotNegative
    longest: Count


@dataclass(slots=True)
class PeerSettings:
    """Options of a TRL run: its name in the tables, pairs per forward pass, activation checkpointing, reference logps
    computed once or by a second model at every step, whether the process keeps freed memory, as this engine does on a
    CPU, Liger's norms and gated activations, FocalPO's gamma (0: DPO), and a dtype (null: the benchmark's)."""

    label: str
    micro_batch: Count
    activation_checkpointing: bool
    cached_reference: bool
    keeps_memory: bool
    liger: bool
    gamma: NotNegative = 0.0
    dtype: DtypeOrNone = None


@dataclass(slots=True)
class GrowthSettings:
    """How cost scales: the shape of a smaller model, and the values of each quantity, varied one at a time."""

    shape: Shape
    sequence_lengths: list[Count]
    pairs: list[Count]
    vocabularies: list[Count]
    objectives: list[Count]
    ranks: list[Count]
    zero_stages: list[ZeroStage]


@dataclass(slots=True)
class BenchSettings:
    """The speed benchmark: its parts, the model (random weights of a shape, or a folder), the lengths of the pairs, and
    what is compared."""

    parts: list[str]
    model: str | None
    shape: Shape
    scale: Positive
    lengths: dict[str, Lengths]
    pairs_file: str | None
    train: TrainSettings
    steps: Count
    repeats: Count
    seed: Seed
    peers: dict[str, PeerSettings]
    kernels: list[str]
    attention: list[str]
    growth: GrowthSettings
    out: str
    runs: str
