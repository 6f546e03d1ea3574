"""The Hugging Face backend: batches of similar length, decoded on one device."""

from collections.abc import Sequence

import torch

from focalpo.answering.decoding import NAME, decode
from focalpo.answering.engine import Backend, Batch, Decoding, Engine, Tokens
from focalpo.training.model import ModelSource, load_model


def load_hf(source: ModelSource, backend: Backend, stops: list[int]) -> Engine:
    """Load the model on the GPU, or on the CPU where there is none."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(source, backend.dtype, device).eval()
    model.set_attn_implementation(NAME)

    def batches(prompts: Sequence[Tokens], decoding: Decoding, samples: int) -> list[list[int]]:
        return by_length(prompts, decoding.max_new_tokens, samples, backend.max_batch_tokens)

    def answer(batch: Batch, decoding: Decoding, seeds: Sequence[int]) -> list[list[Tokens]]:
        return decode(model, batch, decoding, seeds, stops)

    return Engine(batches, answer)


def by_length(prompts: Sequence[Tokens], new_tokens: int, samples: int, budget: int) -> list[list[int]]:
    """Group prompts of similar length, longest first, so that memory runs out in the first batch or never."""
    batches: list[list[int]] = []
    for item in sorted(range(len(prompts)), key=lambda item: (-len(prompts[item]), item)):
        if batches and (len(batches[-1]) + 1) * samples * (len(prompts[batches[-1][0]]) + new_tokens) <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
