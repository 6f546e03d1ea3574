"""Losses of log-probs per token: a long response weighs no more than a short one."""

from typing import TYPE_CHECKING

from focalpo.stages.ranges import NotNegative, Positive
from focalpo.training.objective.base import Logps, Loss, Objective, objective, scored

if TYPE_CHECKING:
    import torch
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import logsigmoid


@objective("simpo")
class SimPO(Objective):
    equation = "-log sig(beta (lp_w/|w| - lp_l/|l| - gamma_beta_ratio))"
    source = "Meng et al. 2024, arXiv 2405.14734, Eq. 6 (remembered, cross-checked with TRL; values read in its README)"
    needs_reference = False
    beta: Positive = 2.0
    gamma_beta_ratio: NotNegative = 0.8  # what the README tunes; the paper's gamma is beta times this

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.per_token("chosen"), self.beta * logps.per_token("rejected")
        return scored(-logsigmoid(chosen - rejected - self.beta * self.gamma_beta_ratio), chosen, rejected)


@objective("omni_dpo")
class OmniDPO(Objective):
    """DPO on log-probs per token, with less weight for pairs that the policy already ranks right by `target_margin`.

    The paper also weights by the judge's scores of both responses, which our pairs do not have: here that weight is 1,
    and every chosen response counts as good. The factor is differentiated, as in the authors' code.
    """

    label = "Omni-DPO"
    equation = "-(1 - sig(beta m - target_margin))^gamma log sig(beta d) + nll_weight [lp_w < lp_ref_w] nll_w"
    source = (
        "Peng et al. 2025, arXiv 2506.10054: d, m = D and lp_w - lp_l per token (read in their code, without scores)"
    )
    beta: Positive = 2.0
    gamma: NotNegative = 1.0
    target_margin: NotNegative = 0.8
    nll_weight: NotNegative = 0.01

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = logps.per_token("chosen"), logps.per_token("rejected")
        factor = torch.exp(self.gamma * logsigmoid(self.target_margin - self.beta * (chosen - rejected)))
        chosen_reward = self.beta * logps.ratio("chosen") / logps.length["chosen"]
        rejected_reward = self.beta * logps.ratio("rejected") / logps.length["rejected"]
        nll = torch.where(chosen_reward < 0, -self.nll_weight * chosen, 0)
        return scored(nll - factor * logsigmoid(chosen_reward - rejected_reward), chosen_reward, rejected_reward)
