"""The report's formulas match the losses: against autograd, by hand, and in their limits."""

import math

import numpy as np
import pytest
import torch

from focalpo.reporting import theory
from focalpo.reporting.argument import smoothed
from focalpo.training.objective import OBJECTIVES, Logps

U = np.array([-30.0, -4.0, -1.0, 0.0, 0.5, 3.0, 12.0])


def autograd(name: str, **options: float) -> tuple[np.ndarray, np.ndarray]:
    """The objective's loss and -dL/du at u = beta D, with beta 1."""
    chosen = torch.tensor(U, requires_grad=True)
    zeros = torch.zeros(len(U), dtype=torch.float64)
    logps = Logps({"chosen": chosen, "rejected": zeros}, {"chosen": zeros, "rejected": zeros}, {}, {})
    loss = OBJECTIVES[name](beta=1.0, **options)(logps).loss
    loss.sum().backward()
    return loss.detach().numpy(), -chosen.grad.numpy()


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.25, 1.0])
@pytest.mark.parametrize("detached", [False, True])
def test_focalpo_in_closed_form_matches_autograd(gamma: float, detached: bool) -> None:
    loss, weight = autograd("focalpo", gamma=gamma, detach_factor=detached)
    np.testing.assert_allclose(theory.focalpo_loss(U, gamma), loss, rtol=1e-12)
    np.testing.assert_allclose(theory.focalpo_weight(U, gamma, detached), weight, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
def test_focal_loss_in_closed_form_matches_autograd(gamma: float) -> None:
    np.testing.assert_allclose(theory.focal_weight(U, gamma), autograd("focal", gamma=gamma)[1], rtol=1e-9, atol=1e-15)


def test_the_gradient_changes_sign_at_sign_flip() -> None:
    p = theory.sign_flip(0.5)
    assert p == pytest.approx(math.exp(-2))
    u = np.log(p / (1 - p)) + np.array([-0.01, 0.01])
    low, high = theory.focalpo_weight(u, 0.5)
    assert low < 0 < high


def test_dpos_best_margin_matches_the_share_of_right_labels() -> None:
    # DPO's expected loss is smallest where sig(u) = 1 - e, that is u = ln((1 - e) / e)
    for wrong in (0.1, 0.2, 0.4):
        assert theory.best_margin(0.0, wrong) == pytest.approx(math.log((1 - wrong) / wrong), abs=1e-3)


def test_large_gammas_have_no_finite_minimum() -> None:
    assert [theory.best_margin(0.25, wrong) is None for wrong in (0.1, 0.2, 0.3, 0.4)] == [True, True, False, False]
    assert all(theory.best_margin(0.5, wrong) is None for wrong in (0.1, 0.2, 0.3, 0.4))
    assert all(theory.best_margin(0.05, wrong) is not None for wrong in (0.1, 0.2, 0.3, 0.4))
    far = np.linspace(-200, 200, 4001)
    assert theory.focalpo_loss(far, 0.5).max() == pytest.approx(1 / (0.5 * math.e), rel=1e-3)


def test_a_running_mean_keeps_a_constant_and_averages_in_the_middle() -> None:
    np.testing.assert_allclose(smoothed(np.full(9, 3.0)), 3.0)
    np.testing.assert_allclose(smoothed(np.array([0.0, 0, 5, 0, 0])), [5 / 3, 5 / 4, 1, 5 / 4, 5 / 3])
