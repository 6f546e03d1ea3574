"""Evaluate an objective on recorded pairs: its loss and rewards on the test split, without another forward pass."""

from collections.abc import Sequence

import torch

from focalpo.stages.rankings import right
from focalpo.stages.records import PairState
from focalpo.training.objective import BatchLevel, BatchLogps, Logps, Objective, TokenLevel


def evaluation(objective: Objective, start: Sequence[PairState], now: Sequence[PairState]) -> dict[str, float]:
    """Means over pairs, which stand in the same order at the start and now; in fp64, so alike for any number of ranks.

    The policy at the start is the reference. An objective that looks at mismatched answers (KTO) or at single tokens
    has no loss and no reward here, for those are not recorded; one that ranks nothing (SFT) has no rewards. Statistics
    of a batch are those of the whole split.
    """
    found = {f"logps_{branch}": float(_column(now, branch).mean()) for branch in ("chosen", "rejected")}
    if "mismatched" in objective.batch_branches or isinstance(objective, TokenLevel):
        return found
    branches = objective.branches
    lengths = {branch: _column(now, f"{branch}_length") for branch in branches}
    logps = {branch: _column(now, branch) for branch in branches}
    reference = {branch: _column(start, branch) for branch in branches}
    terms = objective.batch_terms(Logps(logps, reference, lengths, {}))
    if isinstance(objective, BatchLevel):
        loss = objective(BatchLogps(logps, reference, lengths, {}, terms))
    else:
        loss = objective(Logps(logps, reference, lengths, {name: value.mean() for name, value in terms.items()}))
    found = {"loss": float(loss.loss.mean())} | found
    if "rejected" in branches:
        rewards = loss.chosen_reward, loss.rejected_reward
        values = {"reward_chosen": rewards[0], "reward_rejected": rewards[1], "reward_margin": rewards[0] - rewards[1]}
        values["reward_accuracy"] = right(*rewards)
        found |= {name: float(value.double().mean()) for name, value in values.items()}
    return found


def _column(states: Sequence[PairState], name: str) -> torch.Tensor:
    return torch.tensor([float(getattr(state, name)) for state in states], dtype=torch.float64)
