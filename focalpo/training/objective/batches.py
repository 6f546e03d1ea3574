"""Losses whose weight of a pair depends on the other pairs of the global batch."""

from typing import TYPE_CHECKING

from focalpo.stages.ranges import NotNegative, Positive, Share
from focalpo.training.objective.base import BatchLevel, BatchLogps, Logps, Loss, objective, scored

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn.functional import logsigmoid
else:
    from focalpo.training import later as torch
    from focalpo.training.later import Tensor, logsigmoid

LEAST_BETA = 1e-3  # as in the authors' code


@objective("beta_dpo")
class BetaDPO(BatchLevel):
    """DPO without the batch's outlying margins, its beta raised where those kept are above the batch's mean.

    The authors keep a moving average of mean and deviation, and draw the pairs that they keep, with a normal density
    around that mean as weight. A loss is a function of the batch here: the mean is the batch's own, and the likeliest
    pairs are kept, which are those nearest to it.
    """

    label = "beta-DPO"
    equation = "-log sig(b D) for the pairs nearest to mean D, b = beta (1 + alpha (mean of their D - mean D))"
    source = "Wu et al. 2024, arXiv 2407.08639 (read in their code; without its moving average and random draw)"
    beta: Positive = 0.01
    alpha: NotNegative = 0.6  # per nat of the margin; README of their code
    filtered: Share = 0.2  # of the batch's pairs; README of their code

    def batch_terms(self, logps: Logps) -> dict[str, Tensor]:
        return {"margin": logps.ratio("chosen") - logps.ratio("rejected")}

    def in_batch(self, logps: BatchLogps) -> Loss:
        chosen, rejected = logps.ratio("chosen"), logps.ratio("rejected")
        margins = logps.batch["margin"]
        mean = margins.mean()
        distance = (margins - mean).abs()
        ranked, count = distance.sort().values, max(1, int(len(margins) * (1 - self.filtered)))
        near = distance <= ranked[count - 1]
        # Halfway to the first that is not kept: these margins are of another forward pass, and differ in the last bits.
        farthest = ranked[count - 1 : count + 1].mean()
        beta = self.beta * (1 + self.alpha * (margins[near].mean() - mean))
        loss = -logsigmoid(beta.clamp(min=LEAST_BETA) * (chosen - rejected))
        kept = (chosen - rejected - mean).abs() <= farthest
        # divided by the share that is kept: the batch's mean is then the mean over those pairs
        loss = torch.where(kept, loss / near.to(margins.dtype).mean(), 0)
        return scored(loss, self.beta * chosen, self.beta * rejected)


@objective("amapo")
class AMaPO(BatchLevel):
    """Pairs ranked below the batch's mean must reach a margin that grows with their distance from it; others none."""

    equation = "-log sig(beta (m - g)), m = lp_w/|w| - lp_l/|l|, g = exp(M (M - m) / S) if m < M, else 0"
    source = "Deng et al. 2025, arXiv 2511.09385: M, S mean and deviation of m over the batch (read in their code)"
    needs_reference = False
    beta: Positive = 2.0  # README of their code: 2 to 3

    def batch_terms(self, logps: Logps) -> dict[str, Tensor]:
        return {"margin": logps.per_token("chosen") - logps.per_token("rejected")}

    def in_batch(self, logps: BatchLogps) -> Loss:
        chosen, rejected = logps.per_token("chosen"), logps.per_token("rejected")
        margins, margin = logps.batch["margin"], chosen - rejected
        mean, deviation = margins.mean(), margins.std(correction=min(1, len(margins) - 1))
        behind = (mean - margin).detach()
        target = torch.where(behind > 0, torch.exp(mean * behind / deviation), 0)
        return scored(-logsigmoid(self.beta * (margin - target)), self.beta * chosen, self.beta * rejected)
