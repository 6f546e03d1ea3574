"""Train on answers without pairs: what a loss of both answers receives where one is missing, and weights of labels.

KTO's loss of a pair is a sum over its two answers. A missing answer counts as settled, infinitely likely if chosen and
infinitely unlikely if rejected: its part of the loss and of the gradient is exactly 0, and what remains is KTO's loss
of the other one (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 7).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from focalpo.data.trees import Tree
from focalpo.training.objective import Logps, Loss

SETTLED = {"chosen": math.inf, "rejected": -math.inf}
RATIO = (1.0, 4 / 3)
"""Of the summed weights of desirable and undesirable answers, chosen_weight n_D : rejected_weight n_U, as KTO's authors
recommend (their Eq. 8; second-hand: TRL, which names the equation)."""


def settled(branch: str, logps: Tensor, length: Tensor) -> Tensor:
    """Log-probs of a branch with the missing answers, those of no tokens, settled: [trees]."""
    return torch.where(length > 0, logps, SETTLED[branch])


def is_unpaired(trees: Sequence[Tree]) -> bool:
    """Whether trees hold single answers."""
    return any(not len(answer) for tree in trees for answer in tree.branches.values())


def answers_by_branch(trees: Sequence[Tree], branches: tuple[str, ...]) -> dict[str, int]:
    """How many answers the trees of a global batch have of each branch."""
    return {branch: sum(bool(len(tree.branches[branch])) for tree in trees) for branch in branches}


def unpaired_metrics(batch: Logps, loss: Loss) -> dict[str, Tensor]:
    """Sums over the answers of a micro-batch; there is no ranking."""
    rewards = {"chosen": loss.chosen_reward, "rejected": loss.rejected_reward}
    found = {"loss": loss.loss.detach().sum()}
    for branch, reward in rewards.items():
        there = batch.length[branch] > 0
        for name, values in (("logps", batch.policy[branch].detach()), ("reward", reward)):
            found[f"{name}_{branch}"] = torch.where(there, values, 0).sum()
    return found


def of_answers(means: dict[str, Tensor], answers: dict[str, int], trees: int) -> dict[str, Tensor]:
    """Means over all trees of a global batch as means over the answers of a branch, where it has any."""
    counts = {name: answers.get(name.rpartition("_")[2], trees) for name in means}
    return {name: value * trees / counts[name] for name, value in means.items() if counts[name]}


def weight_advice(trees: Sequence[Tree], chosen_weight: float, rejected_weight: float) -> list[str]:
    """A line when the weights of the two labels are not in the recommended ratio, with those that are."""
    desirable = sum(bool(len(tree.branches["chosen"])) for tree in trees)
    undesirable = len(trees) - desirable
    ratio = chosen_weight * desirable / (rejected_weight * undesirable)
    low, high = RATIO
    if low * (1 - 1e-9) <= ratio <= high * (1 + 1e-9):
        return []
    if ratio > high:
        name, least, most = "rejected", chosen_weight * desirable / (undesirable * high), ratio * rejected_weight / low
    else:
        name, least, most = "chosen", low * chosen_weight / ratio, high * chosen_weight / ratio
    return [
        f"{desirable} desirable and {undesirable} undesirable answers weigh {ratio:.3g} : 1, and KTO's authors "
        f"recommend 1 : 1 to 4 : 3; objective.{name}_weight={least:.3g} to {most:.3g} would be that"
    ]
