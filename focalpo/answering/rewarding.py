"""Score answers with a reward model: any sequence classifier with one label.

Only dialogues of exactly the same length share a batch, so that nothing is padded: heads that read the last token, or
a certain one, see what they were trained on.
"""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from focalpo.data.templates import check_template
from focalpo.data.tokens import dialogue_ids
from focalpo.stages.records import Messages
from focalpo.training.loading import check_complete, explaining_load
from focalpo.training.model import DTYPES, keep_cap
from focalpo.training.ranks import alive, device, gather, rank, world

NO_TOKEN = -1
"""The pad token of models without one, which refuse batches; it is in no row, so that a row ends at its last token."""


class RewardModel:
    """A reward model with its own tokenizer and chat template, weights from safetensors only.

    Raises:
        ValueError: when it cannot be loaded, lacks weights, or gives more than one score per answer.
    """

    def __init__(self, path: str, revision: str | None, dtype: str, own_code: bool) -> None:
        options = {"revision": revision, "trust_remote_code": own_code}
        what = f"the reward model {path}"
        with explaining_load(what):
            self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
            )
        check_template(self.tokenizer)
        check_complete(what, found["missing_keys"])
        keep_cap(model)
        for config in (model.config, model.config.get_text_config()):
            if config.pad_token_id is None:
                config.pad_token_id = NO_TOKEN
        self.model = model.to(device()).eval()

    @torch.no_grad()
    def scores(self, prompts: Sequence[Messages], answers: Sequence[str], batch_tokens: int) -> list[float]:
        """Compute one score per answer, on every rank; a batch has at most `batch_tokens` tokens, or one dialogue."""
        rows = dialogue_ids(self.tokenizer, prompts, answers)
        mine = sorted(range(rank(), len(rows), world()), key=lambda item: len(rows[item]))
        scored: list[tuple[int, float]] = []
        for length, group in groupby(mine, key=lambda item: len(rows[item])):
            items = list(group)
            size = max(1, batch_tokens // length)
            for batch in (items[first : first + size] for first in range(0, len(items), size)):
                alive()
                scored += zip(batch, self._scores([rows[item] for item in batch]), strict=True)
        scores = dict(pair for share in gather(scored) for pair in share)
        if bad := [item for item, score in sorted(scores.items()) if not math.isfinite(score)]:
            raise ValueError(
                f"the reward model gives {len(bad)} of {len(rows)} answers no finite score, first to answer "
                f"{bad[0] + 1}; score in float32, or choose another"
            )
        return [scores[item] for item in range(len(rows))]

    def _scores(self, rows: list[list[int]]) -> list[float]:
        output = self.model(torch.tensor(rows, device=device()))
        # ArmoRM mixes its objectives into `score`; ordinary classifiers have one logit.
        score = output.score if hasattr(output, "score") else output.logits
        if score.numel() != len(rows):
            raise ValueError(
                f"the reward model gives {score.numel() // len(rows)} scores per answer, not one; choose another"
            )
        return score.float().flatten().tolist()
