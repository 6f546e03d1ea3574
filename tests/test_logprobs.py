"""Log-probs of packed prompt trees match a plain, padded, full-vocabulary Hugging Face forward."""

from dataclasses import fields

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from focalpo.data.trees import Tree
from focalpo.training import attention, layout, logprobs
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.packing import pack
from tests.tiny import ARCHITECTURES, random_trees, tiny_model

BRANCHES = ("chosen", "rejected")


def padded_logps(model: PreTrainedModel, trees: list[Tree], branches: tuple[str, ...] = BRANCHES) -> torch.Tensor:
    """The textbook way: one padded row per prompt + response, all logits, mask, sum."""
    picked, _, response = padded_tokens(model, trees, branches)
    return (picked * response).sum(-1).view(len(trees), len(branches))


def padded_tokens(
    model: PreTrainedModel, trees: list[Tree], branches: tuple[str, ...] = BRANCHES
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each place of each padded row: its log-prob, the log of the sum of all squares, whether a response has it."""
    sequences = [(tree.prompt, tree.branches[branch]) for tree in trees for branch in branches]
    rows = pad_sequence([torch.tensor(p + r) for p, r in sequences], batch_first=True)
    mask = pad_sequence([torch.ones(len(p) + len(r)) for p, r in sequences], batch_first=True)
    response = pad_sequence([torch.tensor([0.0] * len(p) + [1.0] * len(r)) for p, r in sequences], batch_first=True)
    logps = model(input_ids=rows, attention_mask=mask).logits.log_softmax(-1)
    picked = logps[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    return picked, logps[:, :-1].exp().square().sum(-1).log(), response[:, 1:]


def weighted_gradients(model: PreTrainedModel, logps: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 2, logps.numel()).view_as(logps)
    return list(torch.autograd.grad((logps * weights).sum(), [p for p in model.parameters() if p.requires_grad]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("chunk, kept", [(1 << 23, 1 << 26), (5 * 97, 1 << 26), (5 * 97, 0)])
def test_packed_equals_padded_in_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch, architecture: str, share_prompts: bool, chunk: int, kept: int
) -> None:
    """All logits at once, in chunks that are kept, and in chunks that are recomputed."""
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", chunk)
    monkeypatch.setattr(logprobs, "KEPT_LOGITS", kept)
    trees = random_trees(9, seed=3)
    reference = tiny_model(architecture)
    expected = padded_logps(reference, trees)
    policy = PackedPolicy(tiny_model(architecture))
    found = policy(pack(trees, BRANCHES, share_prompts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        weighted_gradients(policy.model, found), weighted_gradients(reference, expected), strict=True
    ):
        scale = theirs.abs().max().clamp(min=1)
        assert ((ours - theirs).abs().max() / scale) < 1e-5


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("chunk", [1 << 23, 5 * 97])
def test_the_log_probs_of_single_tokens_equal_padded_ones_and_change_no_sum(
    monkeypatch: pytest.MonkeyPatch, share_prompts: bool, chunk: int
) -> None:
    """In the order of trees, then branches, then tokens, without padding; the gradient is that of the tokens."""
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", chunk)
    trees, models = random_trees(6, seed=8), [tiny_model(), tiny_model()]
    batch, policy = pack(trees, BRANCHES, share_prompts), PackedPolicy(models[0])
    sums, tokens, collision = policy(batch, "tokens")
    assert torch.equal(sums, policy(batch)) and not collision.requires_grad
    picked, squares, response = padded_tokens(models[1], trees)
    expected = picked[response.bool()]
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(collision, squares[response.bool()].detach(), atol=1e-5, rtol=1e-5)
    ours, theirs = weighted_gradients(models[0], tokens), weighted_gradients(models[1], expected)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5 * max(1, float(two.abs().max())), rtol=0)


@pytest.mark.parametrize("chunk", [1 << 23, 5 * 97])
def test_a_bias_of_the_head_is_used_and_trained(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """None of the tested architectures has one; Phi has."""
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", chunk)
    trees, models = random_trees(5, seed=4), [tiny_model(), tiny_model()]
    for model in models:
        head = model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.linspace(-1, 1, head.out_features))
    expected, found = padded_logps(models[0], trees), PackedPolicy(models[1])(pack(trees, BRANCHES))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [weighted_gradients(model, logps) for model, logps in zip(models, (expected, found), strict=True)]
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1, float(theirs.abs().max())), rtol=0)


@pytest.mark.parametrize("small_tree", [0, 20, 1 << 30])
@pytest.mark.parametrize("small_group, waste", [(0, 1.0), (1 << 30, 1.0), (64, 1.1)])
def test_blocks_and_groups_change_nothing(
    monkeypatch: pytest.MonkeyPatch, small_tree: int, small_group: int, waste: float
) -> None:
    trees = random_trees(7, seed=5)
    expected = padded_logps(tiny_model(), trees)
    monkeypatch.setattr(layout, "SMALL_TREE", small_tree)
    monkeypatch.setattr(layout, "SMALL_GROUP", small_group)
    monkeypatch.setattr(layout, "WASTE", waste)
    batch = pack(trees, BRANCHES)
    assert sum(len(group.rows) for group in batch.layout.groups(None)) == batch.tokens.numel()
    torch.testing.assert_close(PackedPolicy(tiny_model())(batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "device_type, dtype, capped, kernel",
    [
        ("cuda", torch.bfloat16, False, "_attend_ragged"),
        ("cuda", torch.float16, False, "_attend_ragged"),
        ("cuda", torch.bfloat16, True, "_attend_grouped"),
        ("cuda", torch.float32, False, "_attend_grouped"),
        ("cpu", torch.bfloat16, False, "_attend_grouped"),
        ("cpu", torch.float32, False, "_attend_grouped"),
    ],
)
def test_flash_attention_is_used_for_half_precision_on_a_gpu_only(
    device_type: str, dtype: torch.dtype, capped: bool, kernel: str
) -> None:
    assert attention.kernel_for(device_type, dtype, capped).__name__ == kernel


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_attention_in_bf16_on_a_cpu_is_that_in_fp32_rounded_once(softcap: float | None) -> None:
    """In value and in gradient; the sum over heads that share a key is rounded once, too."""
    made, packed = torch.Generator().manual_seed(2), pack(random_trees(9, seed=3), BRANCHES)
    shapes = [(1, heads, packed.tokens.shape[1], 8) for heads in (4, 2, 2, 4)]
    *half, grad = [torch.randn(shape, generator=made).to(torch.bfloat16) for shape in shapes]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [each.to(dtype).requires_grad_() for each in half]
        out, _ = attention.packed_attention(None, *leaves, None, 0.3, packed.layout, softcap=softcap)
        assert out.dtype == dtype
        gradients = torch.autograd.grad((out * grad.to(dtype).transpose(1, 2)).sum(), leaves)
        found.append([each.detach().to(torch.bfloat16) for each in (out, *gradients)])
    assert all(one.equal(two) for one, two in zip(*found, strict=True))


def test_the_inputs_of_both_kernels_are_built_on_the_layouts_device() -> None:
    placed = pack(random_trees(9, seed=3), BRANCHES).layout.to(torch.device("meta"))
    behind, key_rows = placed.branches
    kept = (*placed.groups(None), placed.trunks, behind)
    made = [key_rows, *(tensor for each in kept for tensor in tensors_of(each))]
    assert len(made) > 3 and {tensor.device.type for tensor in made} == {"meta"}


def tensors_of(record: layout.Group | layout.Ragged) -> list[torch.Tensor]:
    values = [getattr(record, field.name) for field in fields(record)]
    return [value for value in values if isinstance(value, torch.Tensor)]


def test_one_tree_at_a_time_equals_all_at_once() -> None:
    trees = random_trees(6, seed=8)
    policy = PackedPolicy(tiny_model())
    together = policy(pack(trees, BRANCHES))
    alone = torch.cat([policy(pack([tree], BRANCHES)) for tree in trees])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
