"""The head in bf16: as exact as the rounding of its products allows, in value and in gradient."""

import pytest
import torch
from torch import Tensor, nn

from focalpo.training import logprobs
from focalpo.training.architecture import Rescaling

ROWS, HIDDEN, WORDS = 96, 64, 700
HALF = torch.finfo(torch.bfloat16).eps  # twice the largest relative error of rounding to nearest


def inputs(bias: bool) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A bf16 head, states, labels of which half are the likeliest, and the gradient of the loss by token."""
    made = torch.Generator().manual_seed(4)
    head = nn.Linear(HIDDEN, WORDS, bias=bias, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=made) * 0.6)
    rows = torch.randn(ROWS, HIDDEN, generator=made).to(torch.bfloat16).requires_grad_()
    labels = torch.randint(0, WORDS, (ROWS,), generator=made)
    labels[::2] = head(rows)[::2].argmax(-1)
    return head, rows, labels, torch.randn(ROWS, generator=made)


def exact(head: nn.Linear, rows: Tensor, labels: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits, log-probs and gradients in fp64 of the same bf16 numbers."""
    leaves = [each.detach().double().requires_grad_() for each in (rows, *head.parameters())]
    logits = nn.functional.linear(*leaves)
    logps = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return logits.detach(), logps.detach(), list(torch.autograd.grad((logps * grad).sum(), leaves))


def found(
    head: nn.Linear, rows: Tensor, labels: Tensor, grad: Tensor, words: int, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    bias = head.bias
    logps, _ = logprobs._TokenLogps.apply(rows, head.weight, bias, labels, words, keep, Rescaling(), "sums")
    gradients = torch.autograd.grad((logps * grad).sum(), [rows, *head.parameters()])
    return logps.detach(), list(gradients)


def distance(one: Tensor, two: Tensor) -> float:
    return float((one.double() - two).norm() / two.norm())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("words, keep", [(WORDS, True), (104, True), (104, False)])
def test_on_a_cpu_the_error_is_that_of_rounded_products(words: int, keep: bool, bias: bool) -> None:
    """A product rounds by half of HALF, a bias once more; a log-prob is the difference of a logit and of a mean."""
    given = inputs(bias)
    logits, logps, gradients = exact(*given)
    off, mine = found(*given, words, keep)
    assert float((off - logps).abs().max()) <= (1 + bias) * HALF * float(logits.abs().max())
    plain = nn.functional.linear(given[1], *given[0].parameters()).float().log_softmax(-1)
    plain = plain.gather(-1, given[2][:, None])[:, 0]
    theirs = torch.autograd.grad((plain * given[3]).sum(), [given[1], *given[0].parameters()])
    for one, two, true in zip(mine, theirs, gradients, strict=True):
        assert distance(one, true) <= 1.2 * distance(two, true) <= 0.1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("words, keep", [(104, True), (104, False)])
def test_where_products_are_summed_in_fp32_only_the_gradients_are_rounded(
    monkeypatch: pytest.MonkeyPatch, words: int, keep: bool, bias: bool
) -> None:
    """The path of a GPU, with torch's products of bf16 into fp32, which a CPU lacks, as they are documented."""

    def product(
        one: Tensor, other: Tensor, *, out_dtype: torch.dtype | None = None, out: Tensor | None = None
    ) -> Tensor:
        made = one.float() @ other.float()
        return made if out is None else out.copy_(made)

    monkeypatch.setattr(logprobs, "_sums_in_fp32", lambda factor: True)
    monkeypatch.setattr(torch, "mm", product)
    given = inputs(bias)
    _, logps, gradients = exact(*given)
    mine, rounded = found(*given, words, keep)
    assert float((mine - logps).abs().max()) < 1e-4
    assert rounded[0].dtype == torch.bfloat16
    for one, two in zip(rounded, gradients, strict=True):
        assert distance(one, two) < HALF
