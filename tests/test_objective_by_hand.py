"""Losses, rewards and theorems against numbers derived by hand; each docstring is the derivation."""

import math

import pytest
import torch

from focalpo.training.objective import CPO, DPO, IPO, KTO, ORPO, RDPO, RRHF, SFT, Focal, Logps, Loss, SimPO, SLiC
from tests.logps import one_pair

LN3 = math.log(3)
LN43 = math.log(4 / 3)  # -log sig(ln 3), as sig(ln 3) = 3/4


def value(loss: Loss) -> float:
    return loss.loss.item()


def test_dpo_by_hand() -> None:
    """Log-ratios ln 3 and -ln 3, D = 2 ln 3; beta 1/2 gives u = ln 3, p = 3/4, loss ln 4/3, rewards ±ln(3)/2."""
    loss = DPO(beta=0.5)(one_pair((-1, -2), (-1 - LN3, -2 + LN3)))
    assert value(loss) == pytest.approx(LN43, rel=1e-14)
    assert loss.chosen_reward.item() == pytest.approx(LN3 / 2)
    assert loss.rejected_reward.item() == pytest.approx(-LN3 / 2)


def test_ordinary_focal_loss_by_hand() -> None:
    """p = 3/4 and gamma 2 give (1/4)^2 ln 4/3."""
    assert value(Focal(beta=1, gamma=2)(one_pair((LN3, 0)))) == pytest.approx(LN43 / 16, rel=1e-14)


def test_ipo_by_hand_in_both_normalisations() -> None:
    """Log-ratios 6 and 4 over 3 and 4 tokens: summed D = 2, per token D = 2 - 1 = 1.

    tau 1/2 aims at 1: summed (2 - 1)^2 = 1, per token (1 - 1)^2 = 0; rewards tau times what is compared.
    """
    pair = one_pair((-1, -2), (-7, -6), (3, 4))
    summed, per_token = IPO(tau=0.5, normalisation="sum")(pair), IPO(tau=0.5, normalisation="token_mean")(pair)
    assert (value(summed), summed.chosen_reward.item(), summed.rejected_reward.item()) == (1, 3, 2)
    assert (value(per_token), per_token.chosen_reward.item(), per_token.rejected_reward.item()) == (0, 1, 0.5)


def test_kto_by_hand() -> None:
    """r_w = z + ln 3, r_l = z - ln 3 with z = 1: both sigmoids are 3/4; 1 (1/4) + 2 (1/4) = 3/4."""
    pair = one_pair((1 + LN3, 1 - LN3), kl=1)
    assert value(KTO(beta=1, rejected_weight=2)(pair)) == pytest.approx(0.75, rel=1e-14)


def test_kto_clamps_a_negative_kl_to_zero_and_sends_no_gradient_through_it() -> None:
    kto = KTO(beta=1)
    assert value(kto(one_pair((-1, -2), kl=-3))) == value(kto(one_pair((-1, -2), kl=0)))
    assert value(kto(one_pair((-1, -2), kl=3))) != value(kto(one_pair((-1, -2), kl=0)))
    pair = one_pair((-1, -2), kl=3)
    pair.policy["chosen"].requires_grad_()
    pair.means["kl"].requires_grad_()
    kto(pair).loss.sum().backward()
    assert pair.means["kl"].grad is None


def test_kto_mean_is_beta_times_the_mismatched_log_ratio() -> None:
    """Log-ratios 3 and -1 average to 1; beta 1/4 makes the mean 1/4."""
    values = torch.tensor([-2.0, -6.0]), torch.tensor([-5.0, -5.0])
    terms = KTO(beta=0.25).batch_terms(Logps({"mismatched": values[0]}, {"mismatched": values[1]}, {}, {}))
    assert terms["kl"].mean() == 0.25


def test_rdpo_by_hand_and_longer_chosen_responses_have_the_smaller_weight() -> None:
    """At D = 0, alpha (20 - 10) = ln 3: p = 3/4, loss ln 4/3, weight beta/4; lengths swapped: 1/4, ln 4, 3 beta/4."""
    rdpo = RDPO(beta=0.5, alpha=LN3 / 10)
    weights = []
    for length, expected in (((20, 10), LN43), ((10, 20), math.log(4))):
        pair = one_pair((-5, -5), (-5, -5), length)
        pair.policy["chosen"].requires_grad_()
        loss = rdpo(pair).loss
        assert loss.item() == pytest.approx(expected, rel=1e-14)
        weights.append(-torch.autograd.grad(loss.sum(), pair.policy["chosen"])[0].item())
    assert weights == pytest.approx([0.5 / 4, 0.5 * 3 / 4])
    assert weights[0] < weights[1]


def test_simpo_by_hand() -> None:
    """Per token -1 and -1.5 - ln(3)/2; beta 2 (1/2 + ln(3)/2) minus beta ratio 2 (1/2) leaves ln 3."""
    pair = one_pair((-3, -4 * (1.5 + LN3 / 2)), length=(3, 4))
    assert value(SimPO(beta=2, gamma_beta_ratio=0.5)(pair)) == pytest.approx(LN43, rel=1e-14)


def test_cpo_by_hand_with_both_sft_terms() -> None:
    """beta 1/2 times 2 ln 3 ranks with ln 4/3; the sft term of -4 is 3 * 4 summed, 3 * 4/8 at a mean of 8 tokens."""
    pair = one_pair((-4, -4 - 2 * LN3), tokens=8)
    assert value(CPO(beta=0.5, sft_weight=3, sft_term="sum")(pair)) == pytest.approx(LN43 + 12, rel=1e-14)
    assert value(CPO(beta=0.5, sft_weight=3)(pair)) == pytest.approx(LN43 + 1.5, rel=1e-14)


def test_orpo_by_hand() -> None:
    """p_w = 3/4 (odds 3) over 2 tokens, p_l = 1/2 (odds 1) over 4: sft 2 ln 4/3 plus 2 (-log sig ln 3) = 4 ln 4/3."""
    loss = ORPO(odds_weight=2, sft_term="sum")(one_pair((-2 * LN43, -4 * math.log(2)), length=(2, 4)))
    assert value(loss) == pytest.approx(4 * LN43, rel=1e-14)
    assert loss.chosen_reward.item() == pytest.approx(LN3)
    assert loss.rejected_reward.item() == pytest.approx(0, abs=1e-14)


def test_orpo_stays_precise_where_the_probability_nears_one() -> None:
    """p = exp(-a) with a = 1e-5: log odds = -a - log(1 - exp(-a)) = ln(1e5) - a/2 to first order, in fp32."""
    policy, length = ({b: torch.tensor([v]) for b in ("chosen", "rejected")} for v in (-1e-5, 1.0))
    reward = ORPO(sft_term="sum")(Logps(policy, {}, length, {})).chosen_reward.item()
    assert reward == pytest.approx(math.log(1e5) - 0.5e-5, abs=2e-6)


def test_slic_by_hand_inside_and_outside_its_margin() -> None:
    """delta 1 and lp -5, -4.5: 1 + 5 - 4.5 = 1.5, plus 2 * 5 = 11.5; at -5 and -7 the hinge is inactive: 10."""
    slic = SLiC(delta=1, sft_weight=2, sft_term="sum")
    assert value(slic(one_pair((-5, -4.5)))) == 11.5
    assert value(slic(one_pair((-5, -7)))) == 10


def test_rrhf_by_hand_with_both_sft_terms() -> None:
    """Per token -6/3 = -2 and -2/4 = -1/2: hinge 3/2; imitation 1/2 * 6 summed, 1/2 * 6/3 at a mean of 3 tokens."""
    pair = one_pair((-6, -2), length=(3, 4), tokens=3)
    assert value(RRHF(sft_weight=0.5, sft_term="sum")(pair)) == 4.5
    assert value(RRHF(sft_weight=0.5)(pair)) == 2.5


def test_sft_averages_to_the_mean_over_the_tokens_of_the_global_batch() -> None:
    """-3 over 2 tokens and -5 over 6: the pairs' mean is 8/8 = 1, where the mean of per-pair means would be 7/6."""
    policy, length = {"chosen": torch.tensor([-3.0, -5.0])}, {"chosen": torch.tensor([2.0, 6.0])}
    means = {name: term.mean() for name, term in SFT().batch_terms(Logps({}, {}, length, {})).items()}
    loss = SFT()(Logps(policy, {}, length, means))
    assert loss.loss.mean() == 1
    assert torch.equal(loss.chosen_reward, policy["chosen"]) and not loss.rejected_reward.any()


def test_chen_et_al_theorem_4_1_a_pair_is_ranked_right_iff_its_dpo_loss_is_below_the_references_bound() -> None:
    """arXiv 2405.19534: lp_w >= lp_l iff L <= -log sig(beta c), c = log ref(l)/ref(w). Whole nats make ties exact."""
    generator = torch.Generator().manual_seed(0)
    lp = torch.randint(-9, 0, (4, 2000), generator=generator).double()
    pairs = Logps({"chosen": lp[0], "rejected": lp[1]}, {"chosen": lp[2], "rejected": lp[3]}, {}, {})
    bound = -torch.nn.functional.logsigmoid(0.5 * (lp[3] - lp[2]))
    ranked_right = lp[0] >= lp[1]
    assert torch.equal(DPO(beta=0.5)(pairs).loss <= bound, ranked_right)
    assert 0 < ranked_right.sum() < 2000 and (lp[0] == lp[1]).any()
