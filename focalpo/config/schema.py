"""The schema of the configuration: one dataclass with slots per group of conf/. Values live in YAML, each default once.

Slots reject unknown keys, even those that `++` gets past Hydra; types are checked when YAML is merged into the
schema.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from focalpo.config.cluster import ClusterConfig
from focalpo.stages import ranges
from focalpo.stages.track_settings import TrackSettings
from focalpo.training.package import Package
from focalpo.training.settings import Architecture, LoraSettings, TrainSettings


@dataclass(slots=True)
class PhaseConfig:
    """One phase of supervised training: which demonstrations, how many, and how to train on them."""

    demonstrations: str
    count: ranges.Count
    train: TrainSettings


@dataclass(slots=True)
class ModelConfig:
    """The SFT model: a hub id at a revision, a package to convert, or an architecture; phases train it further."""

    name: ranges.Text
    path: str | None
    revision: str | None
    chat_template: str | None
    stop_tokens: list[str]
    architecture: Architecture | None
    tokenizer: str | None
    phases: dict[str, PhaseConfig]
    seed: ranges.Seed
    package: Package | None = None


@dataclass(slots=True)
class ReferenceConfig:
    """How reference logps are computed, and whether they must fit the author's where the author had the same start
    model and data (eval/author_runs.yaml): else nothing is trained from it."""

    dtype: ranges.Dtype
    micro_batch_tokens: ranges.Count
    must_fit: bool


@dataclass(slots=True)
class DynamicsConfig:
    """Tracking of logps during training, and evaluation on the test pairs, which follows from them: how many training
    pairs, and every how many steps (0: start and end only)."""

    train_pairs: ranges.Some
    every: ranges.Some


@dataclass(slots=True)
class DecodingConfig:
    """How one set of completions is decoded; temperature 0 is greedy."""

    questions: str
    temperature: ranges.NotNegative
    top_p: ranges.Probability
    max_new_tokens: ranges.Count


@dataclass(slots=True)
class GenerateConfig:
    """The generation backend and the sets of completions to generate; with `answers`, files by benchmark that hold a
    model's answers already, nothing is generated, and these benchmarks alone are judged."""

    backend: str
    dtype: ranges.Dtype
    tensor_parallel: ranges.Count
    data_parallel: ranges.Count
    max_batch_tokens: ranges.Count
    sets: dict[str, DecodingConfig]
    answers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class PriceConfig:
    """Prices in USD per million tokens, and the reply length and speed assumed by the estimate before any call."""

    input_usd: ranges.NotNegative
    output_usd: ranges.NotNegative
    reply_tokens: ranges.Some
    seconds_per_request: ranges.NotNegative
    seconds_per_reply_token: ranges.NotNegative


@dataclass(slots=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint; with `base_url` null, only its recorded replies are used.

    `pocket ARGUMENTS` and `vllm MODEL ARGUMENTS` start a judge for the duration of the stage; `api_key_header` has the
    key; with `batch`, requests go through the server's batches, at half the price; `budget_usd` is the maximum cost of
    judging one model.
    """

    base_url: str | None
    api_key_env: str | None
    api_key_header: ranges.Text
    concurrency: ranges.Count
    timeout_seconds: ranges.Positive
    max_attempts: ranges.Count
    batch: bool
    price: PriceConfig
    budget_usd: ranges.NotNegativeOrNone


@dataclass(slots=True)
class JudgeConfig:
    """The protocols of eval/ by set of completions, the model that is asked and changed fields of its requests (null:
    the protocol's; either makes another protocol), the name of the model that judges (null: the one that the endpoint
    serves), the sentinel that is judged first, the share of verdicts that may be missing, and the judge's endpoint."""

    benchmarks: dict[str, str]
    model: str | None
    request: dict[str, Any]
    name: str | None
    sentinel: str | None
    most_missing: ranges.Share
    folder: str | None
    endpoint: EndpointConfig


@dataclass(slots=True)
class CheckConfig:
    """The protocols of eval/ by set of completions that are checked by code, without a judge."""

    benchmarks: dict[str, str]
    folder: str | None


@dataclass(slots=True)
class CapabilityConfig:
    """lm-eval's tasks: a suite of eval/capability.yaml (null: nothing is run), whether documents are put into the
    model's chat template, the documents of a Hugging Face batch, and the first documents of a task (null: all)."""

    suite: str | None
    chat_template: bool
    batch_size: ranges.Count
    limit: ranges.CountOrNone


@dataclass(slots=True)
class CalibrateJudgeConfig:
    """Comparison of a judge with published annotations: how many pairs per model, in one order or both."""

    judge: JudgeConfig
    annotations: ranges.Text
    gamed: str | None
    limit: ranges.CountOrNone
    both_orders: bool
    out: ranges.Text


@dataclass(slots=True)
class LaunchConfig:
    """How stages are run; only `threads` (of a process on CPUs) changes results. `gpus`: how many this machine needs
    (0: none needed); `gpu_gib`: the memory of each, which plan and doctor compare; `hang_seconds`: a step of several
    ranks that takes longer counts as hung."""

    gpus: ranges.Some
    gpu_gib: ranges.NotNegative
    ranks: ranges.Count
    workers: ranges.Count
    threads: ranges.Count
    hang_seconds: float


@dataclass(slots=True)
class Config:
    """Everything that one row of the table depends on. In each of several `rounds` the model that the last one trained
    answers the prompts again, and is start and reference of the training on these pairs (focalpo/planning/rounds.py).
    """

    model: ModelConfig
    data: Any  # one of the shapes of focalpo/config/data.py
    objective: Any
    train: TrainSettings
    reference: ReferenceConfig
    dynamics: DynamicsConfig
    generate: GenerateConfig
    judge: JudgeConfig
    check: CheckConfig
    launch: LaunchConfig
    cluster: ClusterConfig
    track: TrackSettings
    lora: LoraSettings | None
    capability: CapabilityConfig
    rounds: ranges.Count
    seed: ranges.Seed
    runs: ranges.Text


@dataclass(slots=True)
class CheckpointConfig:
    """A published checkpoint: its hub id and commit (null: unknown, the newest is used)."""

    path: str
    revision: str | None


@dataclass(slots=True)
class TableSettingConfig:
    """One setting (pair of columns) of the table: the overrides that select it and the folder of its experiments.

    `released` holds, by row, published checkpoints that replace training with rows=released.
    """

    label: str
    overrides: list[str]
    experiments: str
    released: dict[str, CheckpointConfig] = field(default_factory=dict)


@dataclass(slots=True)
class RowConfig:
    """One row: its label and number of seeds; `trained: false` is the SFT model itself.

    A row of a study is the experiment of another row with additional overrides.
    """

    label: str
    seeds: ranges.Count
    trained: bool = True
    experiment: str | None = None
    overrides: list[str] = field(default_factory=list)


SEARCH_SCORES = ("reward_accuracy", "answer_reward")
"""Of a model after training: the share of held-out pairs whose chosen answer has gained more log-prob than the rejected
one; and the mean reward of its own answers to the prompts of these pairs, where code computes it."""
SearchScore = Annotated[str, " or ".join(SEARCH_SCORES), lambda x: x in SEARCH_SCORES]


@dataclass(slots=True)
class TableConfig:
    """Table 1 at one scale; with `add_new_objectives` every newly registered loss gets a row.

    A `study` is a table beside that of its scale, maybe with a figure of its own. With `sft_models` > 1 every row is
    trained on that many SFT models, each with the row's seeds. `searches` holds, by row, what recipes.sweep tries, in
    Hydra's multirun grammar: objective.beta=0.1,0.3; it trains each point with every one of `search_seeds` (none: the
    configuration's seed) in each of `search_settings` (none: all). `search_by` is what the best point has most of.
    """

    scale: str
    settings: dict[str, TableSettingConfig]
    rows: dict[str, RowConfig]
    compare_with: str
    add_new_objectives: bool
    paper_numbers: str | None
    needs: dict[str, str] = field(default_factory=dict)
    study: str | None = None
    sft_models: ranges.Count = 1
    searches: dict[str, list[str]] = field(default_factory=dict)
    search_seeds: list[ranges.Seed] = field(default_factory=list)
    search_settings: list[str] = field(default_factory=list)
    search_by: SearchScore = SEARCH_SCORES[0]
