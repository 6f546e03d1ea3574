"""Sequence log-probs of a micro-batch, of whose logits at most 256 MiB are ever kept.

Only rows that predict a response token reach the head, in chunks, in fp32; where there are many, backward computes
their logits again.
"""

from collections.abc import Iterator
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from focalpo.training.attention import NAME
from focalpo.training.packing import MicroBatch
from focalpo.training.settings import CHUNK_LOGITS, KEPT_LOGITS


class PackedPolicy(nn.Module):
    """A causal LM that maps a micro-batch of packed trees to the summed response log-probs of its sequences.

    The loop over chunks runs inside the head module's own call, so that ZeRO-3 gathers its weight once per micro-batch
    and ranks with different numbers of rows still make the same collective calls.

    Raises:
        ValueError: for architectures whose logits are not `lm_head(hidden)`, and windows shorter than `longest`.
    """

    def __init__(self, model: PreTrainedModel, chunk_logits: int | None = None) -> None:
        super().__init__()
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(model.config, name, None) is not None:
                raise ValueError(f"{model.config.model_type} rescales its logits ({name}); packed training lacks that")
        model.set_attn_implementation(NAME)
        self.model = model
        self.window = getattr(model.config, "sliding_window", None)
        head = model.get_output_embeddings()
        head.forward = MethodType(_chunked(chunk_logits), head)

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


def _chunked(chunk_logits: int | None):
    def forward(head: nn.Linear, rows: Tensor, labels: Tensor) -> Tensor:
        """log softmax(rows @ W^T)[labels], fp32: rows [R, hidden], labels [R] -> [R]."""
        limit = CHUNK_LOGITS[rows.device.type] if chunk_logits is None else chunk_logits
        most = KEPT_LOGITS if chunk_logits is None else chunk_logits
        keep = torch.is_grad_enabled() and len(rows) * head.out_features <= most
        return _TokenLogps.apply(rows, head.weight, head.bias, labels, max(1, limit // head.out_features), keep)

    return forward


class _TokenLogps(torch.autograd.Function):
    """Log-probs of labels, chunk by chunk. Few logits are kept for backward, which turns them into their gradient in
    place; of many each chunk's are computed again, so that none outlives its turn."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int, keep: bool):
        logps, norms, kept = [], [], []
        for at in _chunks(rows, chunk):
            logits = linear(rows[at], weight, bias).float()
            norms.append(logits.logsumexp(-1))
            logps.append(logits.gather(-1, labels[at, None])[:, 0] - norms[-1])
            if keep:
                kept.append(logits)
        ctx.save_for_backward(rows, weight, bias, labels, torch.cat(norms))
        ctx.chunk, ctx.kept = chunk, kept
        return torch.cat(logps)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, bias, labels, norms = ctx.saved_tensors
        wants_weight, wants_bias = ctx.needs_input_grad[1:3]
        grad_rows, grad_weight, grad_bias = torch.empty_like(rows), None, None
        for at in _chunks(rows, ctx.chunk):
            logits = ctx.kept.pop(0) if ctx.kept else linear(rows[at], weight, bias).float()
            # d logp / d logits = onehot(label) - softmax(logits)
            wanted = logits.sub_(norms[at, None]).exp_().mul_(-grad[at, None])
            wanted = wanted.scatter_add_(-1, labels[at, None], grad[at, None]).to(weight.dtype)
            torch.mm(wanted, weight, out=grad_rows[at])
            if wants_weight:
                grad_weight = wanted.T @ rows[at] if grad_weight is None else grad_weight.addmm_(wanted.T, rows[at])
            if wants_bias:
                grad_bias = wanted.sum(0) if grad_bias is None else grad_bias.add_(wanted.sum(0))
        return grad_rows, grad_weight, grad_bias, None, None, None


def _chunks(rows: Tensor, chunk: int) -> Iterator[slice]:
    return (slice(first, first + chunk) for first in range(0, len(rows), chunk))
