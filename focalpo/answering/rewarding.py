"""Prompts and answers in, one score each out, by a reward model: any sequence classifier with one label.

Dialogues of exactly the same length form a batch, so that nothing is ever padded: heads that look for the last token,
or for a certain one, see what they were trained on.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from focalpo.data.tokens import dialogue_ids
from focalpo.stages.records import Messages
from focalpo.training.model import DTYPES
from focalpo.training.ranks import alive, device, gather, rank, world


class RewardModel:
    """A reward model, weights from safetensors only, and its own tokenizer and chat template.

    Raises:
        ValueError: when it cannot be loaded, or gives more than one score.
    """

    def __init__(self, path: str, revision: str | None, dtype: str, own_code: bool) -> None:
        named = {"revision": revision, "trust_remote_code": own_code}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, **named)
            model = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=DTYPES[dtype], use_safetensors=True, **named
            )
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"cannot load the reward model {path}: {reason}; check its name and your access"
            ) from error
        self.model = model.to(device()).eval()

    @torch.no_grad()
    def scores(self, prompts: Sequence[Messages], answers: Sequence[str], batch_tokens: int) -> list[float]:
        """One score for each answer, on every rank; at most `batch_tokens` tokens (or one dialogue) go in at once."""
        rows = dialogue_ids(self.tokenizer, prompts, answers)
        mine = sorted(range(rank(), len(rows), world()), key=lambda item: len(rows[item]))
        found: list[tuple[int, float]] = []
        for length, group in groupby(mine, key=lambda item: len(rows[item])):
            items = list(group)
            size = max(1, batch_tokens // length)
            for batch in (items[first : first + size] for first in range(0, len(items), size)):
                alive()
                found += zip(batch, self._scores([rows[item] for item in batch]), strict=True)
        scores = dict(pair for share in gather(found) for pair in share)
        return [scores[item] for item in range(len(rows))]

    def _scores(self, rows: list[list[int]]) -> list[float]:
        told = self.model(torch.tensor(rows, device=device()))
        # ArmoRM mixes its objectives into `score`; ordinary classifiers have one logit.
        score = told.score if hasattr(told, "score") else told.logits
        if score.numel() != len(rows):
            raise ValueError(
                f"the reward model gives {score.numel() // len(rows)} scores an answer, not one; take another"
            )
        return score.float().flatten().tolist()
