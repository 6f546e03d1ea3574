"""FocalPO's gradient in both readings: the weight w = -dL/du against the closed form and the table it was derived in.

u = beta D, p = sig(u). Differentiated w = p^g (1-p) (1 + g ln p); factor detached w = p^g (1-p); DPO w = 1-p.
"""

import math

import pytest
import torch
from torch import Tensor

from focalpo.training.objective import DPO, Focal, FocalPO, Logps

READINGS = ("differentiated", "detached")
GAMMAS = (-0.5, -0.05, 0.05, 0.1, 0.25, 0.5, 1, 1 / math.log(2), 2)
START = {  # gamma -> loss, then w / DPO's w by reading, at policy = reference
    0: (0.693147, 1, 1),
    0.05: (0.669536, 0.9325, 0.9659),
    0.1: (0.646729, 0.8684, 0.9330),
    0.25: (0.582865, 0.6952, 0.8409),
    0.5: (0.490129, 0.4620, 0.7071),
    1: (0.346574, 0.1534, 0.5),
    1 / math.log(2): (0.254995, 0, 0.3679),
    2: (0.173287, -0.0966, 0.25),
}
SLOPE = {  # gamma -> d ln w / du at the start, by reading; the differentiated weight is not positive from 1/ln 2 on
    0: (-0.5, -0.5),
    0.05: (-0.449, -0.475),
    0.1: (-0.396, -0.45),
    0.25: (-0.224, -0.375),
    0.5: (0.133, -0.25),
    1: (1.629, 0),
    1 / math.log(2): (None, 0.221),
    2: (None, 0.5),
}
WEIGHT = {  # gamma -> (differentiated, detached) at p = .5, .1, .9
    0.05: ((0.466, 0.483), (0.710, 0.802), (0.0990, 0.0995)),
    0.1: ((0.434, 0.467), (0.550, 0.715), (0.0979, 0.0990)),
    0.25: ((0.348, 0.420), (0.215, 0.506), (0.0948, 0.0974)),
    0.5: ((0.231, 0.354), (-0.043, 0.285), (0.0899, 0.0949)),
    1: ((0.077, 0.250), (-0.117, 0.090), (0.0805, 0.0900)),
    1 / math.log(2): ((0, 0.184), (-0.075, 0.032), (0.0728, 0.0859)),
    2: ((-0.048, 0.125), (-0.032, 0.009), (0.0639, 0.0810)),
}
FLIP = {0.05: 2.1e-9, 0.1: 4.5e-5, 0.25: 0.018, 0.5: 0.135, 1: 0.368, 1 / math.log(2): 0.5, 2: 0.607}
PEAK = {0.05: (0.096, 0.048), 0.1: (0.181, 0.091), 0.25: (0.368, 0.200), 0.5: (0.548, 0.333), 1: (0.715, 0.5)}


def focalpo(gamma: float, reading: str, beta: float = 1) -> FocalPO:
    return FocalPO(beta=beta, gamma=gamma, detach_factor=reading == "detached", allow_sign_flip=True)


def at_margin(margin: Tensor) -> Logps:
    """Pairs with this D: the chosen log-prob is D, everything else is 0."""
    zero = torch.zeros_like(margin)
    return Logps({"chosen": margin, "rejected": zero}, {"chosen": zero, "rejected": zero}, {}, {})


def loss_and_weight(objective: DPO | Focal | FocalPO, u: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and w = -dL/du at beta D = u, by autograd."""
    margin = (u / objective.beta).requires_grad_()
    loss = objective(at_margin(margin)).loss
    return loss.detach(), -torch.autograd.grad(loss.sum(), margin)[0] / objective.beta


def weight_at(p: float | Tensor, gamma: float, reading: str) -> Tensor:
    return loss_and_weight(focalpo(gamma, reading), torch.logit(torch.as_tensor(p, dtype=torch.float64)))[1]


def grid() -> Tensor:
    return torch.linspace(-30, 30, 601, dtype=torch.float64)


def test_loss_by_hand() -> None:
    """p = 3/4: gamma 1 gives 3/4 ln 4/3, gamma 1/2 sqrt(3)/2 ln 4/3; rewards are beta times the log-ratios."""
    u = torch.tensor([math.log(3)], dtype=torch.float64)
    assert loss_and_weight(focalpo(1, "differentiated"), u)[0].item() == pytest.approx(0.75 * math.log(4 / 3))
    assert loss_and_weight(focalpo(0.5, "detached"), u)[0].item() == pytest.approx(math.sqrt(0.75) * math.log(4 / 3))
    assert focalpo(1, "detached", beta=0.1)(at_margin(10 * u)).chosen_reward.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("beta", [0.01, 0.1, 1])
@pytest.mark.parametrize("gamma", [0, *GAMMAS])
def test_gradient_in_the_margin_is_minus_beta_times_the_closed_form_weight(gamma: float, beta: float) -> None:
    margin = (grid() / beta).requires_grad_()
    p = torch.sigmoid(grid())
    for reading, factor in (("differentiated", 1 + gamma * torch.log(p)), ("detached", 1)):
        (gradient,) = torch.autograd.grad(focalpo(gamma, reading, beta)(at_margin(margin)).loss.sum(), margin)
        closed_form = -beta * p**gamma * torch.sigmoid(-grid()) * factor
        torch.testing.assert_close(gradient, closed_form, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("gamma", START)
@pytest.mark.parametrize("place", [0, 1])
def test_constants_at_policy_equal_to_reference(gamma: float, place: int) -> None:
    loss, weight = loss_and_weight(focalpo(gamma, READINGS[place]), torch.zeros(1, dtype=torch.float64))
    assert loss.item() == pytest.approx(START[gamma][0], abs=5e-7)
    assert weight.item() / 0.5 == pytest.approx(START[gamma][1 + place], abs=5e-5)


@pytest.mark.parametrize("gamma", SLOPE)
@pytest.mark.parametrize("place", [0, 1])
def test_slope_of_the_weight_at_the_start_shows_which_pairs_it_favours(gamma: float, place: int) -> None:
    step = torch.tensor([-1e-5, 1e-5], dtype=torch.float64)
    below, above = loss_and_weight(focalpo(gamma, READINGS[place]), step)[1].tolist()
    if SLOPE[gamma][place] is None:
        assert below < 1e-4 and above < 1e-4
    else:
        assert (math.log(above) - math.log(below)) / 2e-5 == pytest.approx(SLOPE[gamma][place], abs=5.1e-4)


@pytest.mark.parametrize("gamma", WEIGHT)
@pytest.mark.parametrize("place", [0, 1])
def test_weights_of_undecided_wrong_and_right_pairs(gamma: float, place: int) -> None:
    for p, expected, printed in zip((0.5, 0.1, 0.9), WEIGHT[gamma], (5e-4, 5e-4, 5e-5), strict=True):
        assert weight_at(p, gamma, READINGS[place]).item() == pytest.approx(expected[place], abs=1.01 * printed)


@pytest.mark.parametrize("gamma", FLIP)
def test_only_the_differentiated_gradient_changes_sign_at_e_to_the_minus_one_over_gamma(
    gamma: float,
) -> None:
    flip = math.exp(-1 / gamma)
    assert flip == pytest.approx(FLIP[gamma], rel=0.02)
    around = torch.tensor([flip * 0.999, flip * 1.001], dtype=torch.float64)
    assert (weight_at(around, gamma, "differentiated").sign() == torch.tensor([-1, 1])).all()
    assert (weight_at(around, gamma, "detached") > 0).all()


@pytest.mark.parametrize("gamma", PEAK)
@pytest.mark.parametrize("place", [0, 1])
def test_the_weight_peaks_where_derived(gamma: float, place: int) -> None:
    p = torch.arange(1, 1000, dtype=torch.float64) / 1000
    assert p[weight_at(p, gamma, READINGS[place]).argmax()].item() == pytest.approx(PEAK[gamma][place], abs=1.01e-3)


def test_focalpo_favours_right_pairs_over_dpo_and_ordinary_focal_loss_wrong_ones() -> None:
    """Weight relative to DPO's, over p, at gamma 1/2.

    FocalPO's rises to 1: p^g detached; differentiated p^g (1 + g ln p), which rises from p = e^(-2/g) = 0.018 on.
    Ordinary focal loss, w = (1-p)^g ((1-p) - g p ln p), gives every wrong pair a larger share than any right pair.
    """
    p = torch.linspace(0.02, 0.99, 98, dtype=torch.float64)
    for reading in READINGS:
        share = weight_at(p, 0.5, reading) / (1 - p)
        assert (share.diff() > 0).all() and share[-1] < 1
    weight = loss_and_weight(Focal(beta=1, gamma=0.5), torch.logit(p))[1]
    torch.testing.assert_close(weight, (1 - p) ** 0.5 * ((1 - p) - 0.5 * p * torch.log(p)), rtol=1e-12, atol=0)
    share = weight / (1 - p)
    assert share[p < 0.5].min() > share[p > 0.5].max()
    weight = loss_and_weight(Focal(beta=1, gamma=2, detach_factor=True), torch.logit(p))[1]
    torch.testing.assert_close(weight, (1 - p) ** 3, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("beta", [0.01, 0.1])
def test_gamma_zero_is_dpo_bit_for_bit_in_fp32(reading: str, beta: float) -> None:
    u = torch.cat([grid().float(), torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])])
    for ours, dpos in zip(
        loss_and_weight(focalpo(0, reading, beta), u), loss_and_weight(DPO(beta=beta), u), strict=True
    ):
        assert torch.equal(ours.view(torch.int32), dpos.view(torch.int32))


@pytest.mark.parametrize("gamma", [0, *(gamma for gamma in GAMMAS if gamma > 0)])
@pytest.mark.parametrize("reading", READINGS)
def test_loss_and_gradient_are_finite_in_fp32_where_p_underflows(gamma: float, reading: str) -> None:
    loss, weight = loss_and_weight(focalpo(gamma, reading), torch.tensor([-1e4, -200.0, 200.0, 1e4]))
    assert loss.isfinite().all() and weight.isfinite().all()
    assert (loss >= 0).all() and (loss[2:] == 0).all()


def test_far_below_the_flip_the_differentiated_gradient_pushes_the_wrong_way() -> None:
    """gamma 0.05, u = -100: log p = -100, w = e^-5 (1 - 5) = -0.02695."""
    weight = loss_and_weight(FocalPO(beta=1), torch.tensor([-100.0]))[1]
    assert weight.item() == pytest.approx(-4 * math.exp(-5), rel=1e-5)


@pytest.mark.parametrize("gamma", [1 / math.log(2), 2])
def test_a_gamma_whose_first_step_goes_the_wrong_way_is_refused_unless_allowed(gamma: float) -> None:
    with pytest.raises(ValueError, match="objective.gamma=.*objective.detach_factor=true.*objective.allow_sign_flip"):
        FocalPO(gamma=gamma)
    assert FocalPO(gamma=gamma, detach_factor=True).gamma == FocalPO(gamma=gamma, allow_sign_flip=True).gamma == gamma
    assert FocalPO(gamma=1.44).gamma == 1.44
    assert loss_and_weight(focalpo(gamma, "differentiated"), torch.zeros(1, dtype=torch.float64))[1] < 1e-15


def test_a_refused_gamma_is_reported_together_with_other_mistakes() -> None:
    with pytest.raises(ValueError, match=r"^focalpo: objective\.beta=-1 .*; objective\.gamma=2 "):
        FocalPO(beta=-1, gamma=2)
