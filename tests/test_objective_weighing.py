"""Losses that weigh pairs by noise, by tokens or by their batch: by hand, in closed form, and where they become DPO."""

import math

import pytest
import torch
from torch import Tensor

from focalpo.training.objective import (
    CDPO,
    DPO,
    DPOP,
    EXO,
    LDDPO,
    NCA,
    RPO,
    WPO,
    AMaPO,
    APODown,
    APOZero,
    BatchLogps,
    BetaDPO,
    Logps,
    OmniDPO,
    RobustDPO,
    SimPO,
    TokenLogps,
)
from tests.logps import one_pair, random_logps, seen_by

LN3 = math.log(3)
LN43 = math.log(4 / 3)  # -log sig(ln 3), as sig(ln 3) = 3/4


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pulls(objective, logps: Logps) -> tuple[Tensor, Tensor]:
    """-dL/d lp_w and dL/d lp_l of every pair: how strongly it raises the chosen and lowers the rejected response."""
    seen = seen_by(objective, logps)
    leaves = [seen.policy["chosen"], seen.policy["rejected"]]
    up, down = torch.autograd.grad(objective(seen).loss.sum(), leaves)
    return -up, down


def of_margin(objective, u: Tensor) -> Tensor:
    """w = -dL/du at beta D = u of a loss of the margin alone."""
    margin = (u / objective.beta).requires_grad_()
    zero = torch.zeros_like(u)
    loss = objective(Logps({"chosen": margin, "rejected": zero}, {"chosen": zero, "rejected": zero}, {}, {})).loss
    return -torch.autograd.grad(loss.sum(), margin)[0] / objective.beta


# ---- noise


@pytest.mark.parametrize("e", [0.05, 0.2, 0.45])
def test_the_weights_under_label_smoothing_in_closed_form(e: float) -> None:
    """cDPO 1 - p - e, 0 at p = 1 - e; robust ((1 - e) (1 - p) + e p)/(1 - 2e), never 0;
    EXO p (1 - p) (ln((1 - e)/e) - u), 0 at p = 1 - e and vanishing at both ends."""
    u = torch.linspace(-30, 30, 121, dtype=torch.float64)
    p = torch.sigmoid(u)
    close = {"rtol": 1e-10, "atol": 1e-14}
    torch.testing.assert_close(of_margin(CDPO(label_smoothing=e), u), 1 - p - e, **close)
    robust = ((1 - e) * (1 - p) + e * p) / (1 - 2 * e)
    torch.testing.assert_close(of_margin(RobustDPO(label_smoothing=e), u), robust, **close)
    exo = torch.exp(torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)) * (math.log(1 / e - 1) - u)
    torch.testing.assert_close(of_margin(EXO(label_smoothing=e), u), exo, **close)
    assert robust.min() > 0 and exo[0].abs() < 1e-10


def test_the_mean_of_robust_dpo_over_wrong_labels_is_dpo_of_the_true_ones() -> None:
    """With a share e of the labels swapped: (1 - e) L(u) + e L(-u) = -log sig(u)."""
    u = torch.linspace(-5, 5, 11, dtype=torch.float64)

    def loss(objective, u: Tensor) -> Tensor:
        zero = torch.zeros_like(u)
        return objective(Logps({"chosen": u, "rejected": zero}, {"chosen": zero, "rejected": zero}, {}, {})).loss

    robust = RobustDPO(beta=1, label_smoothing=0.3)
    torch.testing.assert_close(0.7 * loss(robust, u) + 0.3 * loss(robust, -u), loss(DPO(beta=1), u))


def test_losses_of_each_reward_by_hand() -> None:
    """Rewards ln 3 and -ln 3, sigmoids 3/4 and 1/4, of their difference 9/10.

    NCA: ln 4/3 + (ln 4)/2 + (ln 4/3)/2; APO-zero: 1/4 + 1/4; APO-down: 3/4 + 1/10; EXO, e = 1/4, at p = 3/4: 0.
    """
    pair = one_pair((LN3, -LN3))
    assert NCA(beta=1)(pair).loss.item() == pytest.approx(1.5 * LN43 + math.log(4) / 2)
    assert APOZero(beta=1)(pair).loss.item() == pytest.approx(0.5)
    assert APODown(beta=1)(pair).loss.item() == pytest.approx(0.85)
    assert EXO(beta=0.5, label_smoothing=0.25)(pair).loss.item() == pytest.approx(0, abs=1e-15)


def test_dpop_by_hand() -> None:
    """The chosen response lost ln 3, the rejected one 3 ln 3: D = 2 ln 3; a penalty of 1 leaves ln 3, p = 3/4.

    Its weight: beta (1 - p) (1 + penalty) = 2/4 raises the chosen response, 1/4 lowers the rejected one.
    """
    pair = one_pair((-LN3, -3 * LN3))
    for leaf in pair.policy.values():
        leaf.requires_grad_()
    dpop = DPOP(beta=1, penalty=1)
    assert dpop(pair).loss.item() == pytest.approx(LN43)
    assert [pull.item() for pull in pulls(dpop, pair)] == pytest.approx([0.5, 0.25])


# ---- where they become DPO


@pytest.mark.parametrize(
    "special",
    [
        CDPO(beta=0.3, label_smoothing=0),
        RobustDPO(beta=0.3, label_smoothing=0),
        DPOP(beta=0.3, penalty=0),
        RPO(beta=0.3, sft_weight=0),
        LDDPO(beta=0.3, alpha=1),
        BetaDPO(beta=0.3, alpha=0, filtered=0),
    ],
    ids=lambda special: special.name,
)
def test_with_its_option_at_the_limit_a_loss_is_dpo(special) -> None:
    logps, dpo = random_logps(13, seed=1), DPO(beta=0.3)
    torch.testing.assert_close(special(seen_by(special, logps)).loss, dpo(seen_by(dpo, logps)).loss)
    for ours, dpos in zip(pulls(special, logps), pulls(dpo, logps), strict=True):
        torch.testing.assert_close(ours, dpos)


def test_omni_dpo_without_its_factor_is_dpo_per_token_and_its_nll_only_holds_up_what_was_lost() -> None:
    """Ratios per token 1 and -1: beta 1/2 ln 3 leaves ln 3. The chosen one below its reference adds 2 (5/5)."""
    omni = OmniDPO(beta=LN3 / 2, gamma=0, nll_weight=2)
    assert omni(one_pair((-5, -12), (-10, -8), (5, 4))).loss.item() == pytest.approx(LN43)
    low = omni(one_pair((-5, -12), (-4, -8), (5, 4))).loss.item()  # ratios -1/5 and -1, difference 4/5
    assert low == pytest.approx(math.log1p(math.exp(-0.8 * LN3 / 2)) + 2)


# ---- tokens


def two_pairs(tokens: dict[str, Tensor], length: dict[str, Tensor], **more: dict[str, Tensor]) -> TokenLogps:
    sums = {
        b: torch.stack([part.sum() for part in values.split([int(n) for n in length[b]])])
        for b, values in tokens.items()
    }
    zero = {b: torch.zeros_like(values) for b, values in tokens.items()}
    return TokenLogps(sums, {b: torch.zeros_like(v) for b, v in sums.items()} | more, length, {}, tokens, zero)


def test_ld_dpo_by_hand_counts_only_what_is_longer_in_part_and_sends_its_gradient_to_the_right_tokens() -> None:
    """Lengths 3 and 1, then 1 and 2; beta 1, alpha 1/2. First pair: r_w = -1 - (2 + 4)/2 = -4, r_l = -3.

    Second pair: r_w = -5, r_l = -1 - 6/2 = -4. u = -1 in both, dL/dr = ∓sig(1), on tokens times 1 or 1/2.
    """
    tokens = {"chosen": column(-1, -2, -4, -5).requires_grad_(), "rejected": column(-3, -1, -6).requires_grad_()}
    length = {"chosen": column(3, 1), "rejected": column(1, 2)}
    zero = torch.zeros(2, dtype=torch.float64)
    logps = two_pairs(tokens, length, chosen_shared=zero, rejected_shared=zero)
    loss = LDDPO(beta=1, alpha=0.5)(logps)
    assert loss.chosen_reward.tolist() == [-4, -5] and loss.rejected_reward.tolist() == [-3, -4]
    up, down = torch.autograd.grad(loss.loss.sum(), list(tokens.values()))
    weight = 1 / (1 + math.exp(-1))
    assert up.tolist() == pytest.approx([-weight, -weight / 2, -weight / 2, -weight])
    assert down.tolist() == pytest.approx([weight, weight, weight / 2])


def test_wpo_by_hand_weighs_a_pair_by_its_mean_token_and_holds_the_weight_constant() -> None:
    """D = 0, loss ln 2. Tokens -1, -3 over samples of 0, 0: mean -2; rejected -4 over -4: 0. Weight e^-2, which has no
    gradient: the pull is that of DPO, beta/2, times it. Likelier than a sample, the weight stops at 1."""
    tokens = {"chosen": column(-1, -3), "rejected": column(-4)}
    collision = {"chosen": column(0, 0), "rejected": column(-4)}
    policy = {b: values.sum()[None].requires_grad_() for b, values in tokens.items()}
    length = {"chosen": column(2), "rejected": column(1)}

    def at_start(collision: dict[str, Tensor]) -> Tensor:
        reference = {b: values.detach() for b, values in policy.items()}
        return WPO(beta=0.5)(TokenLogps(policy, reference, length, {}, tokens, collision)).loss

    found = at_start(collision)
    assert found.item() == pytest.approx(math.exp(-2) * math.log(2))
    (pull,) = torch.autograd.grad(found.sum(), policy["chosen"])
    assert pull.item() == pytest.approx(-math.exp(-2) * 0.5 / 2)
    assert at_start({b: values - 9 for b, values in collision.items()}).item() == pytest.approx(math.log(2))


# ---- the batch


def test_beta_dpo_by_hand() -> None:
    """Margins 0, 1, 2, 3, 14 have mean 4; of 4/5 of them the farthest kept is 0: 4 away. Those kept have mean 3/2.

    beta = 2 (1 + 0.1 (3/2 - 4)) = 3/2; a kept pair counts 5/4, which makes the batch's mean that of the kept.
    """
    margins = column(0, 1, 2, 3, 14).requires_grad_()
    zero = torch.zeros(5, dtype=torch.float64)
    reference = {"chosen": zero, "rejected": zero}
    logps = BatchLogps({"chosen": margins, "rejected": zero}, reference, {}, {}, {"margin": margins.detach()})
    found = BetaDPO(beta=2, alpha=0.1, filtered=0.2)(logps).loss
    expected = [1.25 * math.log1p(math.exp(-1.5 * d)) for d in (0, 1, 2, 3)] + [0]
    assert found.tolist() == pytest.approx(expected)
    (slope,) = torch.autograd.grad(found.sum(), margins)
    closed = [-1.25 * 1.5 / (1 + math.exp(1.5 * d)) for d in (0, 1, 2, 3)] + [0]
    assert slope.tolist() == pytest.approx(closed)
    again = BatchLogps({"chosen": margins - 1e-5, "rejected": zero}, reference, {}, {}, logps.batch)
    assert BetaDPO(beta=2, alpha=0.1, filtered=0.2)(again).loss.tolist() == pytest.approx(expected, abs=1e-4)
    wide = BatchLogps(logps.policy, reference, {}, {}, {"margin": 100 * margins.detach()})
    least = BetaDPO(beta=2, alpha=0.1)(wide).loss[1].item()
    assert least == pytest.approx(1.25 * math.log1p(math.exp(-1e-3))), "beta would be 2 (1 + 0.1 (150 - 400))"


def test_amapo_by_hand() -> None:
    """Margins per token -1, 1, 3 have mean 1 and deviation 2. Only the first is below: exp(1 (1 + 1)/2) = e more.

    Its pull is beta sig(beta (1 + e)) over |w| = 2 tokens, the target being constant; the others are SimPO's without
    its margin.
    """
    policy = {"chosen": column(-2, 2, 6).requires_grad_(), "rejected": torch.zeros(3, dtype=torch.float64)}
    length = {"chosen": column(2, 2, 2), "rejected": column(1, 1, 1)}
    amapo = AMaPO(beta=0.5)
    loss = amapo(BatchLogps(policy, {}, length, {}, {"margin": column(-1, 1, 3)})).loss
    simpo = SimPO(beta=0.5, gamma_beta_ratio=0)(Logps(policy, {}, length, {})).loss
    assert loss[0].item() == pytest.approx(math.log1p(math.exp(0.5 * (1 + math.e))))
    assert loss[1:].tolist() == pytest.approx(simpo[1:].tolist())
    (slope,) = torch.autograd.grad(loss.sum(), policy["chosen"])
    closed = [-0.25 / (1 + math.exp(0.5 * (m - t))) for m, t in ((-1, math.e), (1, 0), (3, 0))]
    assert slope.tolist() == pytest.approx(closed)


@pytest.mark.parametrize("loss", [BetaDPO(), AMaPO()], ids=lambda loss: loss.name)
def test_a_batch_of_equal_pairs_or_of_one_has_a_finite_loss(loss) -> None:
    for pairs in (1, 3):
        values = torch.full((pairs,), -4.0)
        logps = Logps(*({b: values.abs() if n == 2 else values for b in ("chosen", "rejected")} for n in range(3)), {})
        assert loss(seen_by(loss, logps)).loss.isfinite().all()
