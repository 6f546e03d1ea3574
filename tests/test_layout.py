"""Each kernel of packed attention sees the same keys; what it reads is made once per micro-batch, without a sync."""

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.attention.flex_attention import create_mask

from focalpo.data.trees import Tree
from focalpo.training import attention, inputs, layout, logprobs
from focalpo.training.inputs import Examples, logps_of, scored_by
from focalpo.training.layout import Layout
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES
from focalpo.training.packing import pack
from tests.tiny import random_trees, tiny_model

BRANCHES = ("chosen", "rejected")
THREE = (*BRANCHES, "other")
WINDOW = 7


def naive_varlen(
    query, key, value, query_starts, key_starts, *_: int, scale, window_size, enable_gqa=None
) -> torch.Tensor:
    """What torch documents of `varlen_attn`, which needs a GPU: windows are aligned to the last query and key."""
    left, right = window_size
    assert right == 0 and enable_gqa in (None, query.shape[1] != key.shape[1])
    spans = zip(*(starts.unfold(0, 2, 1).tolist() for starts in (query_starts, key_starts)), strict=True)
    results = []
    for queries, keys in spans:
        q = query[slice(*queries)].transpose(0, 1)
        k, v = (x[slice(*keys)].repeat_interleave(q.shape[0] // x.shape[1], 1).transpose(0, 1) for x in (key, value))
        before = torch.arange(k.shape[1]) - (torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1])
        hidden = (before > 0) if left == -1 else (before > 0) | (before < -left)
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf)
        results.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(results)


def of_an_older_torch(query, key, value, query_starts, key_starts, *_: int, scale, window_size) -> torch.Tensor:
    """torch 2.11's has no `enable_gqa`."""
    return naive_varlen(query, key, value, query_starts, key_starts, scale=scale, window_size=window_size)


def states(rows: int, heads: int = 4, kv_heads: int = 2) -> list[torch.Tensor]:
    draw = torch.manual_seed(0)
    return [torch.randn(n, rows, 8, generator=draw).requires_grad_() for n in (heads, kv_heads, kv_heads)]


def visible(placed: Layout, window: int | None) -> torch.Tensor:
    """Row by row: [rows, rows]."""
    segments = [segment for tree in placed.trees for segment in tree]
    seen = torch.zeros(2 * [max(segment.end for segment in segments)], dtype=torch.bool)
    for segment in segments:
        for place, query in enumerate(range(segment.start, segment.end)):
            keys = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, query + 1)]
            seen[query, keys if window is None else keys[-window:]] = True
            assert len(keys) == segment.keys - segment.queries + place + 1
    return seen


@pytest.mark.parametrize("window", [None, 1, WINDOW, 4096])
@pytest.mark.parametrize("branches", [("rejected",), BRANCHES, THREE])
@pytest.mark.parametrize("kernel", [naive_varlen, of_an_older_torch])
def test_the_kernel_of_gpus_sees_the_same_keys(monkeypatch, window: int | None, branches: tuple, kernel) -> None:
    """Values, and gradients of queries, keys and values."""
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    batch = pack(random_trees(4, seed=3, branches=THREE), branches)
    placed, rows = batch.layout, batch.tokens.numel()
    found = []
    for attend in (attention._attend_ragged, attention._attend_grouped):
        given = states(rows)
        out = attend(*given, 0.5, placed, placed.narrowed(window), None)
        found.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_prompt_and_its_first_branch_are_one_sequence_and_only_other_branches_copy_keys() -> None:
    """By hand: prompts of 3 and 2 tokens, chosen 2 and 1, rejected 3 and 1."""
    trees = [
        Tree("a", [1, 2, 3], {"chosen": [4, 5], "rejected": [6, 7, 8]}),
        Tree("b", [1, 2], {"chosen": [3], "rejected": [4]}),
    ]
    batch = pack(trees, BRANCHES)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 4]]
    placed = batch.layout
    assert placed.trunk == 8 and placed.responses == [2, 3, 1, 1]
    assert placed.trunks.query_starts.tolist() == placed.trunks.key_starts.tolist() == [0, 5, 8]
    assert placed.trunks.longest_query == placed.trunks.longest_key == 5
    assert placed.branch_keys.tolist() == [0, 1, 2, 8, 9, 10, 5, 6, 11]
    assert placed.branches is not None
    assert placed.branches.query_starts.tolist() == [0, 3, 4]
    assert placed.branches.key_starts.tolist() == [0, 6, 9]
    assert (placed.branches.longest_query, placed.branches.longest_key) == (3, 6)
    for alone in (pack(trees, ("rejected",)), pack(trees, BRANCHES, share_prompts=False)):
        assert alone.layout.branches is None and alone.layout.trunk == alone.tokens.numel()


@pytest.mark.parametrize("tile", [4, 16, 128])
@pytest.mark.parametrize("window", [None, WINDOW])
def test_the_tree_mask_shows_what_is_visible_and_no_tile_of_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tile: int, window: int | None
) -> None:
    monkeypatch.setattr(layout, "TILE", tile)
    placed = pack(random_trees(5, seed=2, longest=40, branches=THREE), THREE).layout
    mask, expected = placed.mask(window), visible(placed, window)
    rows = len(expected)
    assert mask.shape == (1, 1, rows, rows) and mask.BLOCK_SIZE == (tile, tile)
    assert torch.equal(create_mask(mask.mask_mod, 1, 1, rows, rows, "cpu")[0, 0], expected)
    touched, whole = (
        torch.from_numpy(x) for x in layout._tiles([s for t in placed.trees for s in t], -(-rows // tile))
    )
    for query in range(len(touched)):
        for key in range(len(touched)):
            cells = expected[query * tile : (query + 1) * tile, key * tile : (key + 1) * tile]
            assert touched[query, key] or not cells.any()
            assert window is not None or not whole[query, key] or cells.all()
    if window is None and tile == 4:
        assert whole.any() and not touched.all()
    listed = mask.to_dense()[0, 0].bool()
    assert torch.equal(listed, touched), "partial and whole tiles together are those that are touched"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("architecture, more", [("llama", {}), ("mistral", {"sliding_window": WINDOW})])
def test_flex_attention_changes_no_log_prob(architecture: str, more: dict) -> None:
    """Forward only: it has no backward pass on a CPU."""
    batch = pack(random_trees(6, seed=8), BRANCHES)
    with torch.no_grad():
        expected = PackedPolicy(tiny_model(architecture, **more))(batch)
        found = PackedPolicy(tiny_model(architecture, **more), attention=attention.FLEX)(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_kernels_read_is_made_once_per_micro_batch(monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    """Not per layer, and not again when backward recomputes."""
    made = []
    padded = layout._pad
    monkeypatch.setattr(layout, "_pad", lambda *given: made.append(given) or padded(*given))
    policy = PackedPolicy(tiny_model(num_hidden_layers=3)).train()
    if recompute:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = pack(random_trees(6, seed=8), BRANCHES)
    policy(batch).sum().backward()
    assert 0 < len(made) == len(batch.layout.groups(None))


@pytest.mark.parametrize("name", ["focalpo", "simpo", "wpo"])
def test_a_micro_batch_needs_nothing_from_the_gpu_until_its_loss_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On the meta device, whose tensors have no values: whatever the host had to look at would fail.

    The kernel is torch's own for GPUs. Losses of single tokens stop at their inputs: they count tokens on the device.
    """
    meta = torch.device("meta")
    monkeypatch.setattr(inputs, "device", lambda: meta)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: attention._attend_ragged)
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "meta", 5 * 97)
    objective, trees = OBJECTIVES[name](), random_trees(5, seed=2)
    policy = PackedPolicy(tiny_model().to(torch.bfloat16)).to(meta)
    scored = scored_by(policy, objective, micro := pack(trees, objective.branches).to(meta))
    examples = Examples(trees, {branch: [0.0] * len(trees) for branch in objective.branches}, [])
    batch = logps_of(objective, scored, list(range(len(trees))), examples, {})
    if name == "wpo":
        assert {b: len(v) for b, v in scored.tokens.items()} == {
            b: sum(len(t.branches[b]) for t in trees) for b in BRANCHES
        }
        loss = torch.cat(list(scored.tokens.values()))
    else:
        loss = objective(batch).loss
    loss.sum().backward()
    assert micro.tokens.device == meta and policy.model.lm_head.weight.grad.device == meta
