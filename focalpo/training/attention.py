"""Attention over packed trees, registered with transformers so that its causal LMs run unchanged.

What a query sees is said in `layout`. In half precision on a GPU, torch's variable-length attention computes the
segments: a prompt with its first branch as one causal sequence in place, the other branches with a copy of their
prompt's keys. Everywhere else, blocks of similar size share one padded call: a micro-batch of pocket-sized trees costs
one call, and long segments waste nothing. On a CPU they are computed in fp32, because torch's backward pass of bf16
blocks is slower there. Soft-capped scores (Gemma-2), which neither of torch's kernels computes, are
plain matrix products of the same blocks. FlexAttention under the trees' mask is an alternative on a GPU.
"""

from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from focalpo.training.layout import Layout, Ragged
from focalpo.training.packing import Part
from focalpo.training.sequence import exchanging

NAME, BLOCKS, FLEX = "packed_trees", "packed_trees_in_blocks", "packed_trees_flex"
"""What transformers calls it: the best kernel for the device and dtype; always padded blocks; FlexAttention."""
# What models hand to their attention and this one does not compute: sinks, biases, and selections of keys.
UNKNOWN = ("s_aux", "position_bias", "indices", "block_indices")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    layout: Layout,
    sliding_window: int | None = None,
    softcap: float | None = None,
    attend: "Attend | None" = None,
    part: Part | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row: query [1, heads, T, d], key and value [1, kv_heads, T, d] -> [1, T, heads, d].

    Args:
        attend: the kernel, unless scores are capped; None: the best one for the device and dtype.
        part: what this rank has of the row, if several share it; T is then the number of its own rows.

    Raises:
        ValueError: when the model's attention has a part that this one does not compute.
    """
    assert attention_mask is None and query.shape[0] == 1
    for name in UNKNOWN:
        if others.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} needs {name}, which packed attention does not compute; choose another model"
            )
    if attend is None or softcap is not None:
        attend = kernel_for(query.device.type, query.dtype, softcap is not None)
    window = layout.narrowed(sliding_window)

    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, scaling, layout, window, softcap)

    states = query[0], key[0], value[0]
    return (attended(*states) if part is None else exchanging(attended, *states, part))[None], None


def _attend_ragged(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, layout: Layout, window: int | None, softcap: float | None
) -> Tensor:
    assert softcap is None
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [T, heads, d]
    attend = partial(_varlen, scaling=scaling, window=window)
    if layout.branches is None:
        return attend(query, key, value, layout.trunks)
    behind, rows = layout.branches
    trunk, branches = query.split([layout.trunk, len(query) - layout.trunk])
    keys, values = (x.index_select(0, rows) for x in (key, value))
    return torch.cat(
        [
            attend(trunk, key[: layout.trunk], value[: layout.trunk], layout.trunks),
            attend(branches, keys, values, behind),
        ]
    )


def _varlen(query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, scaling: float, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # torch before 2.12 groups heads without being asked to, and does not know the word.
    grouped: dict[str, Any] = {}
    if "enable_gqa" in _parameters(varlen_attn):
        grouped["enable_gqa"] = query.shape[1] != key.shape[1]
    # Aligned to the bottom right, so that a branch's first token sees its whole prompt: (-1, 0) is causal, and (n, 0)
    # sees the n keys before its own as well.
    return varlen_attn(  # type: ignore[return-value]  # a tuple if more is requested
        query,
        key,
        value,
        ragged.query_starts,
        ragged.key_starts,
        ragged.longest_query,
        ragged.longest_key,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )


@cache
def _parameters(function: Callable) -> frozenset[str]:
    return frozenset(signature(function).parameters)


def _attend_flex(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, layout: Layout, window: int | None, softcap: float | None
) -> Tensor:
    assert softcap is None
    out = _flex(query.device.type)(
        query[None],
        key[None],
        value[None],
        block_mask=layout.mask(window),
        scale=scaling,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return out[0].transpose(0, 1)


@cache
def _flex(device_type: str) -> Callable:
    """FlexAttention, compiled for any number of tokens; on a CPU, where it has no backward pass, as it is written."""
    from torch.nn.attention.flex_attention import flex_attention

    attend: Callable = flex_attention
    return torch.compile(attend, dynamic=True) if device_type == "cuda" else attend


def _attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    layout: Layout,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    heads, rows, width = query.shape
    dtype = query.dtype
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    repeats = heads // key.shape[0]
    groups, results = layout.groups(window), []
    for group in groups:
        q, k, v = (_gather(x, rows) for x, rows in ((query, group.queries), (key, group.keys), (value, group.keys)))
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        if softcap is None:
            causal = group.visible is None
            out = scaled_dot_product_attention(q, k, v, attn_mask=group.visible, is_causal=causal, scale=scaling)
        else:  # backward computes the scores again: kept, those of all layers would be most of a step's memory
            out = checkpoint(capped_attention, q, k, v, group.visible, scaling, softcap, use_reentrant=False)
        # [n, heads, rows, d]
        results.append(out.transpose(1, 2).reshape(-1, heads, width).index_select(0, group.results))
    order = torch.cat([group.rows for group in groups])
    return query.new_empty(rows, heads, width).index_copy(0, order, torch.cat(results)).to(dtype)


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """softmax(softcap tanh(q k^T scaling / softcap)) v, the softmax in fp32 (Gemma-2, arXiv 2408.00118, section 2).

    All [n, heads, queries or keys, d]. Without `visible`, causal: the last query sees every key.
    """
    scores = torch.tanh((query @ key.transpose(-1, -2)).float() * (scaling / softcap)) * softcap
    if visible is None:
        queries, keys = scores.shape[-2:]
        visible = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    # Not -inf: a row of padding may see nothing, and NaN would reach the others through its values.
    hidden = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return hidden.softmax(-1).to(value.dtype) @ value


Attend = Callable[[Tensor, Tensor, Tensor, float, Layout, int | None, float | None], Tensor]


def kernel_for(device_type: str, dtype: torch.dtype, capped: bool) -> Attend:
    """Return the kernel: torch's variable-length attention is flash attention, without support for CPUs, fp32 or
    soft-capped scores."""
    half = dtype in (torch.bfloat16, torch.float16)
    return _attend_ragged if half and device_type == "cuda" and not capped else _attend_grouped


def _gather(states: Tensor, rows: Tensor) -> Tensor:
    """[heads, T, d] at rows [n, r] -> [n, heads, r, d]; the backward of index_select is far cheaper than indexing's."""
    heads, _, width = states.shape
    return states.index_select(1, rows.flatten()).view(heads, *rows.shape, width).transpose(0, 1)


# Registered without a mask function, so that transformers builds no mask for this attention.
AttentionInterface.register(NAME, packed_attention)
AttentionInterface.register(BLOCKS, partial(packed_attention, attend=_attend_grouped))
AttentionInterface.register(FLEX, partial(packed_attention, attend=_attend_flex))
