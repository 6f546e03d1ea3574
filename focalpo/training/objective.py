"""The losses: from the sequence log-probs of a batch of pairs, one loss and two implicit rewards per pair.

Everything is pure: no model, no config, no process group. A new loss is one class under `@objective`; the command line,
the validation, the tests and the tables find it in `OBJECTIVES`. In the equations:

    lp   log-prob of a response y under the policy, summed over its |y| tokens, in nats; w chosen, l rejected
    r    the objective's implicit reward, for DPO and its variants beta (lp - lp_ref)
    D    the margin (lp_w - lp_ref_w) - (lp_l - lp_ref_l), so that beta D = r_w - r_l;  sig  the sigmoid
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from focalpo.stages.ranges import AboveMinusOne, NotNegative, Positive, TokenMeanOrSum, out_of_range

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import Tensor, logsigmoid

OBJECTIVES: dict[str, type["Objective"]] = {}  # by the name that the command line uses


@dataclass(frozen=True, slots=True)
class Logps:
    """Sequence log-probs of one batch of pairs, by branch ("chosen", "rejected", "mismatched")."""

    policy: dict[str, Tensor]  # branch -> [pairs], summed over response tokens, nats, with gradient
    reference: dict[str, Tensor]  # same, no gradient; empty when the objective needs no reference
    length: dict[str, Tensor]  # branch -> [pairs], response tokens (float)
    means: dict[str, Tensor]  # scalar means over the GLOBAL batch of what batch_terms returned

    def ratio(self, branch: str) -> Tensor:
        """lp - lp_ref, `[pairs]`."""
        return self.policy[branch] - self.reference[branch]

    def per_token(self, branch: str) -> Tensor:
        """lp / |y|, `[pairs]`."""
        return self.policy[branch] / self.length[branch]


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of each pair, and the objective's own implicit reward of each response."""

    loss: Tensor  # [pairs]
    chosen_reward: Tensor  # [pairs], detached
    rejected_reward: Tensor  # [pairs]


def scored(loss: Tensor, chosen: Tensor, rejected: Tensor) -> Loss:
    return Loss(loss, chosen.detach(), rejected.detach())


class Objective:
    """Base class of every loss; the constructor raises one ValueError that names every option out of range."""

    __slots__ = ()
    name: ClassVar[str]
    label: ClassVar[str]  # as in the paper's Table 1; by default the class's name
    equation: ClassVar[str]
    source: ClassVar[str]  # paper, equation, and how well it is known: read, remembered, derived, second-hand
    needs_reference: ClassVar[bool] = True
    branches: ClassVar[tuple[str, ...]] = ("chosen", "rejected")  # evaluated with gradient
    batch_branches: ClassVar[tuple[str, ...]] = ()  # evaluated without, over the whole global batch, beforehand

    def __call__(self, logps: Logps) -> Loss:
        raise NotImplementedError

    def batch_terms(self, logps: Logps) -> dict[str, Tensor]:
        """Return terms `[pairs]`; `__call__` receives their means over the global batch in `logps.means`."""
        return {}

    def problems(self) -> list[str]:
        return list(out_of_range(self, "objective."))

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ValueError(f"{self.name}: " + "; ".join(problems))


@dataclass_transform(frozen_default=True)
def objective(name: str) -> Callable[[type], type]:
    """Register a loss under `name` as a frozen dataclass; its slots reject options that do not exist."""
    assert name not in OBJECTIVES, f"two losses are called {name}"

    def register(cls: Any) -> type:
        OBJECTIVES[name] = cls = dataclass(frozen=True, slots=True)(cls)
        cls.name, cls.label = name, getattr(cls, "label", cls.__name__)
        return cls

    return register


@objective("focalpo")
class FocalPO(Objective):
    """DPO that gives a lower weight to pairs ranked wrongly (small p).

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
    label = "Focal loss"
    equation = "-(1-p)^gamma log p, p = sig(beta D)"
    source = "Lin et al. 2017, arXiv 1708.02002, Eq. 4, on DPO's p (remembered)"
    beta: Positive = 0.01
    gamma: NotNegative = 0.05  # as in FocalPO; this loss, its mirror image, gives pairs ranked wrongly more weight

    def __call__(self, logps: Logps) -> Loss:
        chosen, rejected = self.beta * logps.ratio("chosen"), self.beta * logps.ratio("rejected")
        factor = torch.exp(self.gamma * logsigmoid(rejected - chosen))  # (1-p)^gamma
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
