"""Evaluate an objective on recorded pairs: its loss and rewards on the test split, without another forward pass."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from focalpo.stages.rankings import right
from focalpo.stages.records import PairState
from focalpo.training.objective import BatchLevel, BatchLogps, Logps, Loss, Objective, TokenLevel
from focalpo.training.observing import BRANCHES


def evaluation(objective: Objective, start: Sequence[PairState], now: Sequence[PairState]) -> dict[str, float]:
    """Means over pairs, which stand in the same order at the start and now; in fp64, so alike for any number of ranks.

    An objective without a loss here (`_loss`) has log-probs only, one that ranks nothing (SFT) no rewards.
    """
    there = {branch: [state for state in now if getattr(state, f"{branch}_length")] for branch in BRANCHES}
    found = {f"logps_{branch}": float(_column(states, branch).mean()) for branch, states in there.items()}
    loss = _loss(objective, start, now)
    if loss is None:
        return found
    found = {"loss": float(loss.loss.mean())} | found
    if "rejected" in objective.branches:
        rewards = loss.chosen_reward, loss.rejected_reward
        values = {"reward_chosen": rewards[0], "reward_rejected": rewards[1], "reward_margin": rewards[0] - rewards[1]}
        values["reward_accuracy"] = right(*rewards)
        found |= {name: float(value.double().mean()) for name, value in values.items()}
    return found


def with_margins(objective: Objective, start: Sequence[PairState], now: Sequence[PairState]) -> list[PairState]:
    """The states now with the objective's own reward margin, where it has rewards."""
    loss = _loss(objective, start, now) if now and "rejected" in objective.branches else None
    if loss is None:
        return list(now)
    margins = (loss.chosen_reward - loss.rejected_reward).tolist()
    return [replace(state, reward_margin=margin) for state, margin in zip(now, margins, strict=True)]


def _loss(objective: Objective, start: Sequence[PairState], now: Sequence[PairState]) -> Loss | None:
    """The loss and rewards of each pair.

    The policy at the start is the reference. An objective that looks at mismatched answers (KTO) or at single tokens
    has none here, for those are not recorded. Statistics of a batch are those of the whole split.
    """
    if "mismatched" in objective.batch_branches or isinstance(objective, TokenLevel):
        return None
    branches = objective.branches
    lengths = {branch: _column(now, f"{branch}_length") for branch in branches}
    logps = {branch: _column(now, branch) for branch in branches}
    reference = {branch: _column(start, branch) for branch in branches}
    terms = objective.batch_terms(Logps(logps, reference, lengths, {}))
    if isinstance(objective, BatchLevel):
        return objective(BatchLogps(logps, reference, lengths, {}, terms))
    return objective(Logps(logps, reference, lengths, {name: value.mean() for name, value in terms.items()}))


def _column(states: Sequence[PairState], name: str) -> torch.Tensor:
    return torch.tensor([float(getattr(state, name)) for state in states], dtype=torch.float64)
