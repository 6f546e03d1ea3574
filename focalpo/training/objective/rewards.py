"""Losses of the reward of each response by itself, not of their margin alone."""

from typing import TYPE_CHECKING

from focalpo.stages.ranges import NotNegative, Positive
from focalpo.training.objective.base import Logps, Loss, Objective, objective, scored

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import Tensor, logsigmoid


@objective("kto")
class KTO(Objective):
    equation = "chosen_weight (1 - sig(r_w - z)) + rejected_weight (1 - sig(z - r_l)), z = max(0, mean r of mismatched)"
    source = "Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 7 (remembered, cross-checked with TRL)"
    batch_branches = ("mismatched",)
    beta: Positive = 0.01
    chosen_weight: Positive = 1.0
    rejected_weight: Positive = 1.0

    def batch_terms(self, logps: Logps) -> dict[str, Tensor]:
        return {"kl": self.beta * logps.ratio("mismatched")}

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        z = logps.means["kl"].detach().clamp(min=0)  # a KL is never negative, but its estimate may be
        # sig(-x) for 1 - sig(x): the subtraction would round every small loss to 0
        loss = self.chosen_weight * torch.sigmoid(z - chosen) + self.rejected_weight * torch.sigmoid(rejected - z)
        return scored(loss, chosen, rejected)


@objective("nca")
class NCA(Objective):
    """Raises the chosen reward itself, not only the difference, and pulls both back to 0."""

    equation = "-log sig(r_w) - 1/2 log sig(-r_w) - 1/2 log sig(-r_l)"
    source = "Chen et al. 2024, arXiv 2402.05369, for a pair (second-hand: TRL)"
    beta: Positive = 0.01

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        return scored(-logsigmoid(chosen) - logsigmoid(-chosen) / 2 - logsigmoid(-rejected) / 2, chosen, rejected)


@objective("apo_zero")
class APOZero(Objective):
    label = "APO-zero"
    equation = "1 - sig(r_w) + sig(r_l)"
    source = "D'Oosterlinck et al. 2024, arXiv 2408.06266, Eq. 7 (second-hand: TRL, which names the equation)"
    beta: Positive = 0.01

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        return scored(torch.sigmoid(-chosen) + torch.sigmoid(rejected), chosen, rejected)


@objective("apo_down")
class APODown(Objective):
    """For chosen responses worse than the policy's own: both are lowered, the rejected one more."""

    label = "APO-down"
    equation = "sig(r_w) + 1 - sig(r_w - r_l)"
    source = "D'Oosterlinck et al. 2024, arXiv 2408.06266, Eq. 8 (second-hand: TRL, which names the equation)"
    beta: Positive = 0.01

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        return scored(torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen), chosen, rejected)


@objective("dpop")
class DPOP(Objective):
    """DPO that pays for a chosen response which becomes less likely than under the reference; rewards are DPO's."""

    equation = "-log sig(beta (D - penalty max(0, lp_ref_w - lp_w)))"
    source = (
        "Pal et al. 2024, arXiv 2402.13228, Eq. 3 (remembered; of others' code some has the term inside the sigmoid)"
    )
    beta: Positive = 0.01
    penalty: NotNegative = 50.0  # the paper's lambda (remembered; the default of others' code)

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = logps.ratio("chosen"), logps.ratio("rejected")
        margin = chosen - rejected - self.penalty * torch.relu(-chosen)
        return scored(-logsigmoid(self.beta * margin), self.beta * chosen, self.beta * rejected)
