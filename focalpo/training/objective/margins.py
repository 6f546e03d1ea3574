"""Losses of the margin between the two responses alone."""

import math
from typing import TYPE_CHECKING

from focalpo.stages.ranges import (
    AboveMinusOne,
    AboveZeroBelowHalf,
    BelowHalf,
    NotNegative,
    Positive,
    TokenMeanOrSum,
)
from focalpo.training.objective.base import Logps, Loss, Objective, objective, scored

if TYPE_CHECKING:
    import torch
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import logsigmoid


@objective("focalpo")
class FocalPO(Objective):
    """DPO with less weight for pairs ranked wrongly (small p) than DPO gives them.

    The first author's runs of December 2024 differentiate p^gamma (only then does gamma 2 collapse as theirs did);
    `detach_factor` is the other reading. If differentiated, the gradient changes sign below p = e^(-1/gamma): it pushes
    the margin of such a pair further the wrong way. A gamma below 0 is a control that focuses on such pairs instead.
    """

    equation = "-p^gamma log p, p = sig(beta D)"
    source = "Liu et al. 2025, arXiv 2501.06645 (beta, gamma, formula: the author's run cards, eval/author_runs.yaml)"
    beta: Positive = 0.01
    gamma: AboveMinusOne = 0.05
    detach_factor: bool = False
    allow_sign_flip: bool = False

    def problems(self) -> list[str]:
        found = Objective.problems(self)
        # training starts at p = 1/2, where the gradient's factor 1 + gamma ln p is 0 at gamma = 1/ln 2
        if self.gamma >= 1 / math.log(2) and not (self.detach_factor or self.allow_sign_flip):
            must = "must be below 1/ln 2 = 1.4427, or the first step lowers every margin"
            remedy = "set objective.detach_factor=true, or objective.allow_sign_flip=true to allow it"
            found.append(f"objective.gamma={self.gamma!r} {must}; {remedy}")
        return found

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        logp = logsigmoid(chosen - rejected)  # in log space, since p would underflow
        factor = torch.exp(self.gamma * (logp.detach() if self.detach_factor else logp))  # p^gamma
        return scored(-factor * logp, chosen, rejected)


@objective("focal")
class Focal(Objective):
    """FocalPO's mirror image: pairs ranked wrongly get more weight than in DPO; its factor has both readings too."""

    label = "Focal loss"
    equation = "-(1-p)^gamma log p, p = sig(beta D)"
    source = "Lin et al. 2017, arXiv 1708.02002, Eq. 4, on DPO's p (remembered)"
    beta: Positive = 0.01
    gamma: NotNegative = 0.05  # as in FocalPO
    detach_factor: bool = False

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        log_rest = logsigmoid(rejected - chosen)
        factor = torch.exp(self.gamma * (log_rest.detach() if self.detach_factor else log_rest))  # (1-p)^gamma
        return scored(-factor * logsigmoid(chosen - rejected), chosen, rejected)


@objective("dpo")
class DPO(Objective):
    equation = "-log sig(beta D)"
    source = "Rafailov et al. 2023, arXiv 2305.18290, Eq. 7 (remembered, cross-checked with TRL)"
    beta: Positive = 0.01

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        return scored(-logsigmoid(chosen - rejected), chosen, rejected)


@objective("rdpo")
class RDPO(Objective):
    label = "R-DPO"
    equation = "-log sig(beta D + alpha (|w| - |l|))"  # a longer chosen leaves less to learn; r = DPO's + alpha |y|
    source = "Park et al. 2024, arXiv 2403.19159 (form second-hand; sign derived from a reward penalised by alpha |y|)"
    beta: Positive = 0.01
    alpha: NotNegative = 0.05  # the lower end of SimPO's range: already 5 nats per 100 tokens

    def __call__(self, logps: Logps) -> Loss:
        chosen = self.beta * logps.ratio("chosen") + self.alpha * logps.length["chosen"]
        rejected = self.beta * logps.ratio("rejected") + self.alpha * logps.length["rejected"]
        return scored(-logsigmoid(chosen - rejected), chosen, rejected)


@objective("ipo")
class IPO(Objective):
    equation = "(D - 1/(2 tau))^2"
    source = "Azar et al. 2023, arXiv 2310.12036, Eq. 17 (remembered, cross-checked with TRL; tau from SimPO's range)"
    tau: Positive = 0.01  # depends on normalisation: the target is 50 nats per response, or an unreachable 50 per token
    normalisation: TokenMeanOrSum = "sum"  # of the log-probs in D; as in the paper. TRL: token_mean

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = logps.ratio("chosen"), logps.ratio("rejected")
        if self.normalisation == "token_mean":
            chosen, rejected = chosen / logps.length["chosen"], rejected / logps.length["rejected"]
        return scored((chosen - rejected - 1 / (2 * self.tau)) ** 2, self.tau * chosen, self.tau * rejected)


@objective("cdpo")
class CDPO(Objective):
    label = "cDPO"
    equation = "-(1-e) log sig(beta D) - e log sig(-beta D), e = label_smoothing"
    source = "Mitchell 2023, ericmitchell.ai/cdpo.pdf, Eq. 3 (second-hand: DPO's reference code cites it so)"
    beta: Positive = 0.01
    label_smoothing: BelowHalf = 0.1  # the share of labels that are taken to be wrong

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        right, wrong = -logsigmoid(chosen - rejected), -logsigmoid(rejected - chosen)
        return scored((1 - self.label_smoothing) * right + self.label_smoothing * wrong, chosen, rejected)


@objective("robust_dpo")
class RobustDPO(Objective):
    """DPO whose mean over wrong labels is DPO's loss of the true ones; unlike cDPO's, the loss has no lower bound."""

    label = "Robust DPO"
    equation = "(-(1-e) log sig(beta D) + e log sig(-beta D)) / (1-2e), e = label_smoothing"
    source = "Chowdhury et al. 2024, arXiv 2403.00409 (second-hand: TRL)"
    beta: Positive = 0.01
    label_smoothing: BelowHalf = 0.1

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        right, wrong = -logsigmoid(chosen - rejected), -logsigmoid(rejected - chosen)
        loss = (1 - self.label_smoothing) * right - self.label_smoothing * wrong
        return scored(loss / (1 - 2 * self.label_smoothing), chosen, rejected)


@objective("exo")
class EXO(Objective):
    """The reverse KL to the smoothed label, so that far margins of either sign have a vanishing gradient."""

    equation = "p log(p/(1-e)) + (1-p) log((1-p)/e), p = sig(beta D), e = label_smoothing"
    source = "Ji et al. 2024, arXiv 2402.00856, Eq. 16 (second-hand: TRL, which names the equation)"
    beta: Positive = 0.01
    label_smoothing: AboveZeroBelowHalf = 1e-3  # TRL's value; 0 would be infinite

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        logp, log_rest = logsigmoid(chosen - rejected), logsigmoid(rejected - chosen)  # log p and log(1-p)
        right = torch.exp(logp) * (logp - math.log1p(-self.label_smoothing))
        wrong = torch.exp(log_rest) * (log_rest - math.log(self.label_smoothing))
        return scored(right + wrong, chosen, rejected)
