"""Decode with a Hugging Face model: one prefill per prompt for all its samples, and no work on finished answers.

transformers' `generate` copies the whole cache at every token, repeats grouped keys for every query head, and computes
finished rows to the end of the batch. Here the cache has room from the start, the query heads of a group are the
queries of one attention call, and finished rows leave the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from focalpo.answering.engine import Batch, Decoding, Tokens, draw_seed
from focalpo.training.attention import capped_attention

NAME = "grouped_heads"
LEAVE = 0.75  # rows leave once this share of the batch is left: each time, the cache of those that stay is copied


class Layer(DynamicLayer):
    """One layer's keys and values [rows, heads, places, head size], of which the first `length` places are filled."""

    length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Put new states behind the others; the first ones, those of the prompts, fill the cache."""
        if not self.length:
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
            self.length = key_states.shape[2]
            return self.keys, self.values
        assert self.keys is not None and self.values is not None
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def take(self, rows: Tensor, places: int) -> None:
        """Keep only these rows, which may repeat, with room for `places` tokens."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = (self._taken(each, rows, places) for each in (self.keys, self.values))

    def _taken(self, states: Tensor, rows: Tensor, places: int) -> Tensor:
        taken = states.new_empty((len(rows), states.shape[1], places, states.shape[3]))
        taken[:, :, : self.length] = states[:, :, : self.length].index_select(0, rows)
        return taken


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    """Attention of one query a row, with the query heads that share a key head as the queries of that head."""
    rows, heads, queries, size = query.shape
    groups = key.shape[1]
    if (softcap := kwargs.get("softcap")) is not None:  # torch's kernel would leave the cap out
        key, value = (each.repeat_interleave(heads // groups, 1) for each in (key, value))
        found = capped_attention(query, key, value, attention_mask, kwargs["scaling"], softcap)
        return found.transpose(1, 2), None
    if queries > 1 or heads == groups:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query = query.reshape(rows, groups, heads // groups, size)
    found = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling"))
    return found.reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.inference_mode()
def decode(
    model: PreTrainedModel, batch: Batch, decoding: Decoding, seeds: Sequence[int], stops: list[int]
) -> list[list[Tokens]]:
    """The ids of an answer per prompt and seed, up to and with its first stop token.

    Raises:
        ValueError: when the model's logits are not finite.
    """
    device = model.device
    longest = max(len(prompt) for _, prompt in batch)
    padded = [[stops[0]] * (longest - len(prompt)) + prompt for _, prompt in batch]
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for _, prompt in batch], device=device)
    layers = [Layer() for _ in range(model.config.get_text_config().num_hidden_layers)]
    cache = Cache(layers=list(layers))
    places = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=mask,
        position_ids=places,
        past_key_values=cache,
        logits_to_keep=1,
    )
    rows = torch.arange(len(batch), device=device).repeat_interleave(len(seeds))
    logits, mask, places = output.logits[rows, -1], mask[rows], places[rows, -1:]
    mask = pad(mask, (0, decoding.max_new_tokens), value=1)
    for layer in layers:
        layer.take(rows, mask.shape[1])
    draws = _draws(batch, decoding, seeds).to(device)
    answers: list[Tokens] = [[] for _ in rows]
    there = torch.arange(len(rows), device=device)  # the answer of each row of the batch
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    while True:
        step = layers[0].length - longest
        tokens = _next_tokens(logits.float(), draws[there, step], decoding)
        for answer, token, over in zip(there.tolist(), tokens.tolist(), ended.tolist(), strict=True):
            if not over:
                answers[answer].append(token)
        ended |= torch.isin(tokens, torch.tensor(stops, device=device))
        if ended.all() or step + 1 == decoding.max_new_tokens:
            return [answers[at : at + len(seeds)] for at in range(0, len(answers), len(seeds))]
        if int((~ended).sum()) <= LEAVE * len(ended):
            stay = (~ended).nonzero()[:, 0]
            for layer in layers:
                layer.take(stay, mask.shape[1])
            there, tokens, mask, places, ended = (each[stay] for each in (there, tokens, mask, places, ended))
        places = places + 1
        output = model(
            input_ids=tokens[:, None],
            attention_mask=mask[:, : longest + step + 1],
            position_ids=places,
            past_key_values=cache,
        )
        logits = output.logits[:, -1]


def _draws(batch: Batch, decoding: Decoding, seeds: Sequence[int]) -> Tensor:
    """A uniform number per answer and token, from the answer's own seed: it does not depend on the batch."""
    if decoding.temperature == 0:
        return torch.zeros(len(batch) * len(seeds), decoding.max_new_tokens)
    made = [torch.Generator().manual_seed(draw_seed(seed, number)) for number, _ in batch for seed in seeds]
    return torch.stack([torch.rand(decoding.max_new_tokens, generator=each, dtype=torch.float64) for each in made])


def _next_tokens(logits: Tensor, draws: Tensor, decoding: Decoding) -> Tensor:
    """The likeliest token of each row, or the one at which the cumulated probabilities pass the row's draw."""
    if not logits.amax(-1).isfinite().all():
        raise ValueError("the model's logits are not finite; train it with a lower learning rate, or in fp32")
    if decoding.temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / decoding.temperature, -1)
    order = None
    if decoding.top_p < 1:
        probabilities, order = probabilities.sort(descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= decoding.top_p, 0.0)
    cumulated = probabilities.cumsum(-1, dtype=torch.float64)
    # In fp64 a draw below 1 stays below the sum, and right=True passes over tokens of no probability.
    places = torch.searchsorted(cumulated, (draws * cumulated[:, -1])[:, None], right=True)
    return (places if order is None else order.gather(-1, places))[:, 0]
