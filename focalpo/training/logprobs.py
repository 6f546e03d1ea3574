"""Sequence log-probs of a micro-batch without ever building `[T, vocabulary]`.

Only rows that predict a response token reach the head, in chunks, in fp32; a chunk's logits are recomputed in backward.
"""

from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from focalpo.training.attention import NAME
from focalpo.training.packing import MicroBatch

# Logits of one chunk: 2^26 fp32 values are 256 MiB, large enough to keep a GPU's matrix units busy.
CHUNK_LOGITS = 1 << 26


class PackedPolicy(nn.Module):
    """A causal LM that maps a micro-batch of packed trees to the summed response log-probs of its sequences.

    The loop over chunks runs inside the head module's own call, so that ZeRO-3 gathers its weight once per micro-batch
    and ranks with different numbers of rows still make the same collective calls.

    Raises:
        ValueError: for architectures whose logits are not `lm_head(hidden)`, and windows shorter than `longest`.
    """

    def __init__(self, model: PreTrainedModel, chunk_logits: int | None = CHUNK_LOGITS) -> None:
        super().__init__()
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(model.config, name, None) is not None:
                raise ValueError(f"{model.config.model_type} rescales its logits ({name}); packed training lacks that")
        model.set_attn_implementation(NAME)
        self.model = model
        self.window = getattr(model.config, "sliding_window", None)
        head = model.get_output_embeddings()
        chunk_rows = None if chunk_logits is None else max(1, chunk_logits // head.out_features)
        head.forward = MethodType(_chunked(chunk_rows), head)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Summed log-probs, nats, fp32: [trees, branches]."""
        longest = int(batch.positions.max()) + 1 if self.window else 0
        if self.window and longest > self.window:
            raise ValueError(f"a sequence of {longest} tokens exceeds the model's sliding window of {self.window}")
        body = getattr(self.model, self.model.base_model_prefix)
        hidden = body(
            input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, layout=batch.layout
        ).last_hidden_state[0]
        logps = self.model.get_output_embeddings()(hidden[batch.predictors], batch.labels)  # [R]
        sums = logps.new_zeros(batch.trees * len(batch.branches)).index_add(0, batch.owners, logps)
        return sums.view(batch.trees, len(batch.branches))


def _chunked(chunk_rows: int | None):
    def forward(head: nn.Linear, rows: Tensor, labels: Tensor) -> Tensor:
        """log softmax(rows @ W^T)[labels], fp32: rows [R, hidden], labels [R] -> [R]."""
        if chunk_rows is None or len(rows) <= chunk_rows:
            return _token_logps(head, rows, labels)
        chunks = zip(rows.split(chunk_rows), labels.split(chunk_rows), strict=True)
        return torch.cat([checkpoint(_token_logps, head, *chunk, use_reentrant=False) for chunk in chunks])

    return forward


def _token_logps(head: nn.Linear, rows: Tensor, labels: Tensor) -> Tensor:
    logits = nn.functional.linear(rows, head.weight, head.bias).float()
    return logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)
