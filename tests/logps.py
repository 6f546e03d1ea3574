"""Log-probs for the tests of the objectives: made up, and cut to what an objective declares that it needs."""

from typing import Any

import torch
from torch import Tensor

from focalpo.training.objective import Logps

BRANCHES = ("chosen", "rejected", "mismatched")


def random_logps(pairs: int, seed: int, dtype: torch.dtype = torch.float64) -> Logps:
    """Log-probs of all branches, each a negative number of nats; those of the policy are leaves of the graph."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(pairs, generator=generator, dtype=torch.float64)).to(dtype)

    length = {b: torch.randint(2, 12, (pairs,), generator=generator).to(dtype) for b in BRANCHES}
    reference = {b: -length[b] * uniform(0.2, 1.5) for b in BRANCHES}
    policy = {b: (reference[b] * uniform(0.7, 1.2)).requires_grad_() for b in BRANCHES}
    return Logps(policy, reference, length, {})


def one_pair(policy: tuple, reference: tuple = (0, 0), length: tuple = (1, 1), **means: float) -> Logps:
    """One pair in fp64, each argument (chosen, rejected)."""

    def by_branch(values: tuple) -> dict[str, Tensor]:
        return {b: torch.tensor([float(v)], dtype=torch.float64) for b, v in zip(BRANCHES, values, strict=False)}

    scalars = {name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()}
    return Logps(by_branch(policy), by_branch(reference), by_branch(length), scalars)


def seen_by(objective: Any, logps: Logps) -> Logps:
    """What the engine hands to this objective and nothing more: undeclared branches and references are absent."""

    def cut(branches: tuple[str, ...], means: dict[str, Tensor]) -> Logps:
        reference = {b: logps.reference[b] for b in branches if objective.needs_reference}
        return Logps({b: logps.policy[b] for b in branches}, reference, {b: logps.length[b] for b in branches}, means)

    ahead = cut(objective.batch_branches, {})
    ahead.length.update({b: logps.length[b] for b in objective.branches})
    means = {name: term.detach().mean() for name, term in objective.batch_terms(ahead).items()}
    return cut(objective.branches, means)


def gradients(loss: Tensor, logps: Logps) -> dict[str, Tensor]:
    """d loss / d log-prob of each branch; zero where the loss does not look."""
    found = torch.autograd.grad(loss.sum(), list(logps.policy.values()), allow_unused=True, retain_graph=True)
    grads = zip(logps.policy.items(), found, strict=True)
    return {branch: torch.zeros_like(leaf) if grad is None else grad for (branch, leaf), grad in grads}
