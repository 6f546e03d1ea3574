"""What a backend is: how to decode, where, and the loaded model that turns prompts into answers, all as token ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from focalpo.stages.folder import Job

Tokens = list[int]
Row = tuple[Tokens, Tokens]
"""Token ids of a prompt and of its answer."""
Batch = Sequence[tuple[int, Tokens]]
"""Prompts that are answered together, each with its number among all."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Backend:
    """The engine that runs the model; `max_batch_tokens` bounds prompt + answer tokens of one Hugging Face batch."""

    name: str
    dtype: str
    tensor_parallel: int
    data_parallel: int
    max_batch_tokens: int


def backend_of(job: Job) -> Backend:
    """The backend of a stage that generates answers."""
    launch = {name: value for name, value in job.launch.items() if name != "track"}
    return Backend(job.settings["backend"], job.settings["dtype"], **launch)


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model.

    `batches` divides prompts, given as ids, into batches of their numbers; it depends on nothing else than the prompts,
    the decoding and the number of samples. `answer` returns the ids of an answer per prompt of a batch and per seed,
    whatever it was asked before. `logprobs`, with vLLM, returns vLLM's log-probs of the rows' answers.
    """

    batches: Callable[[Sequence[Tokens], Decoding, int], list[list[int]]]
    answer: Callable[[Batch, Decoding, Sequence[int]], list[list[Tokens]]]
    logprobs: Callable[[list[Row]], list[list[float]]] | None = None


def draw_seed(seed: int, number: int) -> int:
    """The seed of the random numbers of one answer: that of the stage, and the number of the prompt."""
    return seed * 1_000_003 + number
