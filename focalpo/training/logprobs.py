"""Compute the sequence log-probs of a micro-batch, keeping at most 256 MiB of logits.

Only rows that predict a response token reach the head, one chunk of the vocabulary at a time; the softmax is in fp32.
If there are too many logits to keep, backward recomputes them. In half precision a GPU sums the head's products in fp32
and returns them so; a CPU rounds them to half precision, because torch has no other product of such inputs there. TRL
1.16 and Liger 0.8 compute the same sums, but round the logits on every device, and recompute them always.
"""

from collections.abc import Iterator
from types import MethodType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from focalpo.training.architecture import Rescaling, rescaling, sliding_window
from focalpo.training.attention import NAME
from focalpo.training.packing import MicroBatch
from focalpo.training.sequence import joined
from focalpo.training.settings import CHUNK_LOGITS, KEPT_LOGITS, words_at_once

Asked = Literal["sums", "tokens", "diagnostics"]
Scores = Tensor | tuple[Tensor, Tensor, Tensor]


class PackedPolicy(nn.Module):
    """A causal LM that maps a micro-batch of packed trees to the summed response log-probs of its sequences.

    The loop over chunks runs inside the head module's own call, so that ZeRO-3 gathers its weight once per micro-batch
    and ranks with different numbers of rows still make the same collective calls.

    Raises:
        ValueError: for architectures whose logits or layers are none that packed training computes.
    """

    def __init__(self, model: PreTrainedModel, chunk_logits: int | None = None, attention: str = NAME) -> None:
        super().__init__()
        config = model.config.get_text_config()
        self.window = sliding_window(config)
        model.set_attn_implementation(attention)
        self.model = model
        head = model.get_output_embeddings()
        head.forward = MethodType(_chunked(chunk_logits, rescaling(config)), head)

    def forward(self, batch: MicroBatch, asked: Asked = "sums") -> Scores:
        """Return the summed log-probs, nats, fp32: [trees, branches].

        Asked for "tokens" also those of each response token, and the log of the sum of all tokens' squared
        probabilities there: both [response tokens], in the order of `batch.owners`. Asked for "diagnostics" also sums
        over each response's tokens, of the entropies there, nats [trees, branches], and of the last hidden states that
        predict them [trees, branches, hidden]. All fp32, and without gradient but for the log-probs. Of a micro-batch
        that several ranks share, diagnostics are not available.

        Raises:
            ValueError: when the model's layers do not use our attention, or a sequence is longer than a sliding window
                of which they do not tell it.
        """
        body = getattr(self.model, self.model.base_model_prefix)
        hidden = body(
            input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, layout=batch.layout, part=batch.part
        ).last_hidden_state[0]
        if not batch.layout.windows:
            kind = self.model.config.model_type
            raise ValueError(f"the layers of {kind} have an attention of their own; choose another model")
        if self.window is not None and self.window not in batch.layout.windows and batch.layout.longest > self.window:
            raise ValueError(
                f"{self.model.config.model_type} does not tell its attention of its sliding window of {self.window}, "
                f"and a sequence has {batch.layout.longest} tokens; lower data.max_length to {self.window}"
            )
        rows = hidden[batch.predictors]  # [R, hidden]
        logps, more = self.model.get_output_embeddings()(rows, batch.labels, asked)  # [R]
        if batch.part is not None:
            logps = joined(logps, batch.part, len(batch.owners))
            more = more if more is None else joined(more, batch.part, len(batch.owners))
        sums = _by_sequence(batch, logps)
        if asked == "sums":
            return sums
        if asked == "tokens":
            return sums, logps, more
        return sums, _by_sequence(batch, more), _by_sequence(batch, rows.detach().float())


def _by_sequence(batch: MicroBatch, values: Tensor) -> Tensor:
    """Sums of `values` [R, ...] over the tokens of each response: [trees, branches, ...]."""
    rest = values.shape[1:]
    sums = values.new_zeros(batch.trees * len(batch.branches), *rest).index_add(0, batch.owners, values)
    return sums.view(batch.trees, len(batch.branches), *rest)


def _chunked(chunk_logits: int | None, rescaling: Rescaling):
    def forward(head: nn.Linear, rows: Tensor, labels: Tensor, asked: Asked) -> tuple[Tensor, Tensor | None]:
        """log softmax(rows @ W^T)[labels], fp32, of rescaled logits: rows [R, hidden], labels [R] -> [R].

        Asked for "tokens" also log sum_v softmax(rows @ W^T)[v]^2, for "diagnostics" the softmax's entropy, nats: [R],
        without gradient.
        """
        limit = CHUNK_LOGITS[rows.device.type] if chunk_logits is None else chunk_logits
        max_kept = KEPT_LOGITS if chunk_logits is None else chunk_logits
        keep = torch.is_grad_enabled() and len(rows) * head.out_features <= max_kept
        words = words_at_once(len(rows), limit)
        return _TokenLogps.apply(rows, head.weight, head.bias, labels, words, keep, rescaling, asked)

    return forward


class _TokenLogps(torch.autograd.Function):
    """Log-probs of labels, one chunk of the vocabulary at a time: the head's weight is read once, and its gradient is
    one product over all rows. Kept logits become their own gradient in place in backward; otherwise backward recomputes
    them chunk by chunk, so that only one chunk exists at a time."""

    @staticmethod
    def forward(
        ctx,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        words: int,
        keep: bool,
        rescaling: Rescaling,
        asked: Asked,
    ) -> tuple[Tensor, Tensor | None]:
        norms = rows.new_full((len(rows), 1), -torch.inf, dtype=torch.float32)
        labelled, mean, kept, squared = torch.zeros_like(norms), torch.zeros_like(norms), [], norms
        for chunk in _chunks(len(weight), words):
            logits = rescaling.logits_(_products(rows, weight, bias, chunk))
            before, norms = norms, norms.logaddexp(logits.logsumexp(-1, keepdim=True))
            column, inside = _place(labels, chunk)
            labelled = torch.where(inside, logits.gather(-1, column), labelled)
            if asked == "tokens":
                squared = squared.logaddexp((2 * logits).logsumexp(-1, keepdim=True))
            elif asked == "diagnostics":  # the mean logit of the vocabulary so far
                here = torch.linalg.vecdot((logits - norms).exp_(), logits)
                mean = mean * (before - norms).exp() + here[:, None]
            if keep:
                kept.append(logits)
        ctx.save_for_backward(rows, weight, bias, labels, norms)
        ctx.words, ctx.kept, ctx.rescaling = words, kept, rescaling
        logps = (labelled - norms)[:, 0]
        if asked == "sums":
            return logps, None
        more = ((squared - 2 * norms) if asked == "tokens" else (norms - mean))[:, 0]
        ctx.mark_non_differentiable(more)
        return logps, more

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, weight, bias, labels, norms = ctx.saved_tensors
        grad = grad[:, None]
        grad_rows = torch.zeros_like(rows, dtype=torch.float32)  # sum over chunks: low precision would lose small terms
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.empty_like(bias) if needs_bias else None
        for chunk in _chunks(len(weight), ctx.words):
            logits = ctx.kept.pop(0) if ctx.kept else ctx.rescaling.logits_(_products(rows, weight, bias, chunk))
            slope = ctx.rescaling.slope(logits)  # before their gradient overwrites them
            # d logp / d logits = onehot(label) - softmax(logits)
            column, inside = _place(labels, chunk)
            grad_logits = logits.sub_(norms).exp_().mul_(-grad).scatter_add_(-1, column, grad * inside)
            grad_products = (grad_logits if slope is None else grad_logits.mul_(slope)).to(weight.dtype)
            grad_rows = _added(grad_rows, grad_products, weight[chunk])
            if grad_weight is not None:
                torch.mm(grad_products.T, rows, out=grad_weight[chunk])
            if grad_bias is not None:
                torch.sum(grad_products, 0, out=grad_bias[chunk])
        return grad_rows.to(rows.dtype), grad_weight, grad_bias, *[None] * 5  # no other argument has a gradient


def _chunks(words: int, at_once: int) -> Iterator[slice]:
    return (slice(first, min(first + at_once, words)) for first in range(0, words, at_once))


def _products(rows: Tensor, weight: Tensor, bias: Tensor | None, chunk: slice) -> Tensor:
    """rows @ weight[chunk]^T + bias[chunk], fp32."""
    if not _sums_in_fp32(rows):
        return linear(rows, weight[chunk], None if bias is None else bias[chunk]).float()
    products = torch.mm(rows, weight[chunk].T, out_dtype=torch.float32)
    return products if bias is None else products.add_(bias[chunk])


def _added(total: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """total + one @ other, in place; `total` is fp32."""
    if not _sums_in_fp32(one):
        return total.add_(one @ other)
    return total.add_(torch.mm(one, other, out_dtype=torch.float32))


def _sums_in_fp32(factor: Tensor) -> bool:
    """Whether torch has a product of half-precision factors that is not rounded to their dtype: on a GPU only."""
    return factor.is_cuda and factor.dtype in (torch.bfloat16, torch.float16)


def _place(labels: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Each label's column within the chunk (0 if it is outside) and whether it is inside: both [R, 1]."""
    inside = (labels >= chunk.start) & (labels < chunk.stop)
    return ((labels - chunk.start) * inside)[:, None], inside[:, None]
