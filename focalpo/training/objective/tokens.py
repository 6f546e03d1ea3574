"""Losses that need the log-prob of each token."""

from typing import TYPE_CHECKING

from focalpo.stages.ranges import Positive, ZeroToOne
from focalpo.training.objective.base import Loss, TokenLevel, TokenLogps, objective, scored

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import Tensor, logsigmoid


@objective("wpo")
class WPO(TokenLevel):
    """DPO weighted by how likely the policy itself is to write the pair: off-policy pairs count less.

    Each token's probability is divided by the one that a sample from the policy has there on average, sum_v pi(v)^2.
    """

    equation = "-v log sig(beta D), v = min(1, exp(mean_w a + mean_l a)), a = log pi(token) - log sum_v pi(v)^2"
    source = (
        "Zhou et al. 2024, arXiv 2406.11827, Eq. 2, sampled alignment (read in their code; TRL does not clip v at 1)"
    )
    beta: Positive = 0.01

    def of_tokens(self, logps: TokenLogps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        weight = torch.exp(aligned(logps, "chosen") + aligned(logps, "rejected")).clamp(max=1)
        return scored(-weight.detach() * logsigmoid(chosen - rejected), chosen, rejected)


def aligned(logps: TokenLogps, branch: str) -> Tensor:
    """The mean over a response's tokens of their log-prob relative to a sample's, `[pairs]`."""
    return logps.summed(branch, logps.tokens[branch] - logps.collision[branch]) / logps.length[branch]


@objective("ld_dpo")
class LDDPO(TokenLevel):
    """DPO in which the tokens of the longer response beyond the length of the shorter one count `alpha` times."""

    label = "LD-DPO"
    equation = "-log sig(r_w - r_l), r = beta (d_shared + alpha (d - d_shared)), d = lp - lp_ref"
    source = "Liu et al. 2024, arXiv 2409.06411 (second-hand: TRL); shared: the first min(|w|, |l|) tokens of each"
    reference_branches = ("chosen_shared", "rejected_shared")
    beta: Positive = 0.01
    alpha: ZeroToOne = 0.5  # 1 is DPO; the best value depends on the model (second-hand), this one is in the middle

    def of_tokens(self, logps: TokenLogps) -> Loss:
        least = torch.minimum(logps.length["chosen"], logps.length["rejected"])

        def reward(branch: str) -> Tensor:
            policy = logps.summed(branch, logps.tokens[branch], first=least)
            shared = policy - logps.reference[f"{branch}_shared"]
            return self.beta * (shared + self.alpha * (logps.ratio(branch) - shared))

        chosen, rejected = reward("chosen"), reward("rejected")
        return scored(-logsigmoid(chosen - rejected), chosen, rejected)
