"""Where preference pairs come from: one shape per source, with the keys that it reads and no others.

A file of conf/data/ names its source first in its defaults: `/source/file@_here_`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from focalpo.stages import ranges
from focalpo.stages.origin import ROOT

Noise = Annotated[float, "in [0, 0.5]", lambda x: 0 <= x <= 0.5]
NOISY = ("any", "hard")
NoiseOn = Annotated[str, " or ".join(NOISY), lambda x: x in NOISY]
OnBadRows = Annotated[str, "error or drop", lambda x: x in ("error", "drop")]
SeveralSamples = Annotated[int, ">= 2: a pair is of two samples", lambda x: x >= 2]
Seeds = Annotated[list[ranges.Seed], "two different seeds or more", lambda x: len(set(x)) == len(x) > 1]


@dataclass(slots=True)
class Data:
    """What all sources have in common: a name, what to do with bad rows, and the maximum lengths in tokens."""

    source: ClassVar[str]
    own_answers: ClassVar[bool] = False  # whether the model itself writes the answers
    name: ranges.Text
    on_bad_rows: OnBadRows
    max_prompt_length: ranges.Count
    max_length: ranges.Count
    truncation: ranges.Truncation

    def problems(self) -> Iterator[str]:
        """Mistakes that no single field's range catches."""
        if self.max_prompt_length >= self.max_length:
            longest = self.max_length
            yield f"data.max_prompt_length={self.max_prompt_length} must be in [1, data.max_length={longest})"


@dataclass(slots=True)
class PocketBase(Data):
    """Answers by four writers of the pocket world, with a share of labels flipped.

    `noise_on` says where the false labels are: on any pair with the same chance or, as many of them, on hard pairs,
    whose answers are nearly as good as each other.
    """

    source = "pocket_base"
    prompts: ranges.Count
    label_noise: Noise
    noise_on: NoiseOn
    test_fraction: ranges.Share
    seed: ranges.Seed


@dataclass(slots=True)
class PocketInstruct(PocketBase):
    """The model's own answers in the pocket world: `samples` to each prompt."""

    source = "pocket_instruct"
    own_answers = True
    samples: SeveralSamples
    temperature: ranges.NotNegative


@dataclass(slots=True)
class File(Data):
    """A file of pairs; a share of them is held out, or `test_path` holds the test pairs."""

    source = "file"
    path: str | None
    test_path: str | None
    test_fraction: ranges.Share
    limit: ranges.CountOrNone
    ignore_columns: list[str]

    def problems(self) -> Iterator[str]:
        yield from Data.problems(self)
        if not self.path:
            yield "data.path is not set; it is the path of a jsonl, jsonl.gz, json or parquet file"


@dataclass(slots=True)
class Unpaired(File):
    """A file of answers with labels, not in pairs; only the losses named in `UNPAIRED` train on them."""

    source = "unpaired"


UNPAIRED = ("kto",)
"""Losses of one answer at a time."""


@dataclass(slots=True)
class Published(Data):
    """A dataset of the hub at a commit."""

    path: str | None
    revision: str | None
    train_split: ranges.Text
    test_split: str | None
    limit: ranges.CountOrNone
    ignore_columns: list[str]

    def problems(self) -> Iterator[str]:
        yield from Data.problems(self)
        if not self.path:
            yield "data.path is not set; it is the id of a dataset"
        if not self.revision:
            yield "data.revision is not set; pin the dataset to a commit so that the run is reproducible"


@dataclass(slots=True)
class Hub(Published):
    """Pairs of the hub; the dataset brings its own test pairs or, without `test_split`, a share is held out."""

    source = "hub"
    test_fraction: ranges.Share


@dataclass(slots=True)
class Sampling:
    """The model's own answers to a prompt, one per seed."""

    seeds: Seeds
    temperature: ranges.NotNegative
    top_p: ranges.Probability
    max_new_tokens: ranges.Count


@dataclass(slots=True)
class Reward:
    """A reward model of the hub; `own_code` lets it run code from its repository, at the pinned revision."""

    path: ranges.Text
    revision: str | None
    own_code: bool
    dtype: ranges.Dtype


@dataclass(slots=True)
class OnPolicy(Published):
    """The model's own answers to a hub dataset's prompts, best against worst by a reward model."""

    source = "on_policy"
    own_answers = True
    sampling: Sampling
    reward: Reward

    def problems(self) -> Iterator[str]:
        yield from Published.problems(self)
        if not self.test_split:
            yield "data.test_split is not set; it names the split whose prompts are held out"


@dataclass(slots=True)
class Instructions(Data):
    """The model's own answers to prompts with verifiable instructions, best against worst by how many they follow.

    `file` is a YAML of eval/ that the prompts are drawn from, of other topics for training than for testing.
    """

    source = "instructions"
    own_answers = True
    file: ranges.Text
    prompts: ranges.Count
    test_prompts: ranges.Count
    seed: ranges.Seed
    sampling: Sampling

    def problems(self) -> Iterator[str]:
        yield from Data.problems(self)
        if not (ROOT / "eval" / f"{self.file}.yaml").is_file():
            yield f"data.file={self.file} is not a file of {ROOT / 'eval'}; correct its name, without .yaml"


SOURCES = {shape.source: shape for shape in (PocketBase, PocketInstruct, File, Unpaired, Hub, OnPolicy, Instructions)}
