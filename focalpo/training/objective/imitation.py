"""Losses that imitate the chosen response, most of them beside a term that ranks."""

from typing import TYPE_CHECKING

from focalpo.stages.ranges import NotNegative, Positive, TokenMeanOrSum
from focalpo.training.objective.base import Logps, Loss, Objective, objective, scored

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import Tensor, logsigmoid


class Imitation(Objective):
    """Losses that imitate the chosen response (`sft` in the equations), without a reference.

    The papers add the summed -lp_w, which over hundreds of tokens outweighs the ranking term; trainers of the time
    averaged over tokens. The default therefore divides by the MEAN |w|: exactly the token mean of the global batch.
    """

    __slots__ = ()
    needs_reference = False
    sft_term = "token_mean"

    def batch_terms(self, logps: Logps) -> dict[str, Tensor]:
        return {"tokens": logps.length["chosen"]} if self.sft_term == "token_mean" else {}

    def sft(self, logps: Logps) -> Tensor:
        return -logps.policy["chosen"] / (logps.means["tokens"] if self.sft_term == "token_mean" else 1)


@objective("sft")
class SFT(Imitation):
    equation = "sft = -lp_w / mean |w|"
    source = "next-token cross-entropy over the response tokens (derived)"
    branches = ("chosen",)

    def __call__(self, logps: Logps) -> Loss:
        return scored(self.sft(logps), logps.policy["chosen"], torch.zeros_like(logps.policy["chosen"]))


@objective("cpo")
class CPO(Imitation):
    equation = "-log sig(beta lp_w - beta lp_l) + sft_weight sft"
    source = "Xu et al. 2024, arXiv 2401.08417, Eq. 3 (remembered, cross-checked with TRL)"
    beta: Positive = 0.01
    sft_weight: NotNegative = 1.0
    sft_term: TokenMeanOrSum = "token_mean"

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.policy["chosen"], self.beta * logps.policy["rejected"]
        return scored(-logsigmoid(chosen - rejected) + self.sft_weight * self.sft(logps), chosen, rejected)


def log_odds(mean_logp: Tensor) -> Tensor:
    """log p/(1-p) of p = exp(mean_logp), `[pairs]`."""
    a = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)  # p that rounds to 1 has no odds: use the next p below
    return a - torch.log(-torch.expm1(a))  # expm1, since 1 - exp(a) loses precision as p nears 1


@objective("orpo")
class ORPO(Imitation):
    equation = "sft - odds_weight log sig(logit p_w - logit p_l), p = exp(lp/|y|)"
    source = "Hong et al. 2024, arXiv 2403.07691, Eqs. 4 and 7 (remembered, cross-checked with TRL)"
    odds_weight: Positive = 0.1
    sft_term: TokenMeanOrSum = "token_mean"

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = log_odds(logps.per_token("chosen")), log_odds(logps.per_token("rejected"))
        return scored(self.sft(logps) - self.odds_weight * logsigmoid(chosen - rejected), chosen, rejected)


@objective("slic")
class SLiC(Imitation):
    label = "SLiC-HF"
    equation = "max(0, delta - lp_w + lp_l) + sft_weight sft"
    source = "Zhao et al. 2023, arXiv 2305.10425, as in SimPO's Table 3 (remembered)"
    delta: Positive = 1.0
    sft_weight: NotNegative = 1.0
    sft_term: TokenMeanOrSum = "token_mean"

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = logps.policy["chosen"], logps.policy["rejected"]
        return scored(torch.relu(self.delta - chosen + rejected) + self.sft_weight * self.sft(logps), chosen, rejected)


@objective("rrhf")
class RRHF(Imitation):
    equation = "max(0, lp_l/|l| - lp_w/|w|) + sft_weight sft"
    source = "Yuan et al. 2023, arXiv 2304.05302, as in SimPO's Table 3 (remembered)"
    sft_weight: NotNegative = 1.0
    sft_term: TokenMeanOrSum = "token_mean"

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = logps.per_token("chosen"), logps.per_token("rejected")
        return scored(torch.relu(rejected - chosen) + self.sft_weight * self.sft(logps), chosen, rejected)


@objective("rpo")
class RPO(Imitation):
    """DPO with an imitation term. The paper divides it by each pair's own |w|; `sft_term` is as in the other losses."""

    equation = "-log sig(beta D) + sft_weight sft"
    source = "Pang et al. 2024, arXiv 2404.19733 (second-hand; token_mean cross-checked with TRL's sigmoid + sft)"
    needs_reference = True
    beta: Positive = 0.01
    sft_weight: NotNegative = 1.0
    sft_term: TokenMeanOrSum = "token_mean"

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        return scored(-logsigmoid(chosen - rejected) + self.sft_weight * self.sft(logps), chosen, rejected)
