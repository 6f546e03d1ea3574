"""Log-probs for the tests of the objectives: made up, and cut to what an objective declares that it needs."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from focalpo.training.objective import BatchLevel, BatchLogps, Logps, TokenLevel, TokenLogps

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


def dealt(totals: Tensor, lengths: Tensor) -> Tensor:
    """Log-probs of responses `[pairs]` dealt unevenly to their tokens `[tokens]`: 1, 2, 3, ... parts to each."""
    tokens = [torch.arange(1, int(length) + 1, dtype=totals.dtype) for length in lengths]
    return torch.cat([total * shares / shares.sum() for total, shares in zip(totals, tokens, strict=True)])


def made_up_collision(lengths: Tensor) -> Tensor:
    """The log of the sum of squared probabilities at each token: 0.3 nats below 0 at the last one, `[tokens]`."""
    shares = [torch.arange(1, int(length) + 1, dtype=lengths.dtype) / length for length in lengths]
    return -0.3 * torch.cat(shares)


def seen_by(objective: Any, logps: Logps) -> Logps:
    """What the engine hands to this objective and nothing more: undeclared branches and references are absent."""

    def cut(branches: tuple[str, ...], means: dict[str, Tensor]) -> Logps:
        reference = {b: logps.reference[b] for b in branches if objective.needs_reference}
        return Logps({b: logps.policy[b] for b in branches}, reference, {b: logps.length[b] for b in branches}, means)

    ahead = cut(objective.batch_branches, {})
    ahead.length.update({b: logps.length[b] for b in objective.branches})
    terms = {name: term.detach() for name, term in objective.batch_terms(ahead).items()}
    if isinstance(objective, TokenLevel):
        return with_tokens(objective, cut(objective.branches, {}))
    if isinstance(objective, BatchLevel):
        seen = cut(objective.branches, {})
        return BatchLogps(seen.policy, seen.reference, seen.length, {}, terms)
    return cut(objective.branches, {name: term.mean() for name, term in terms.items()})


def with_tokens(objective: TokenLevel, logps: Logps) -> TokenLogps:
    """The same pairs with their log-probs dealt to tokens, the reference's too."""
    tokens = {b: dealt(values, logps.length[b]) for b, values in logps.policy.items()}
    collision = {b: made_up_collision(lengths) for b, lengths in logps.length.items()}
    least = torch.minimum(logps.length["chosen"], logps.length["rejected"])
    reference = dict(logps.reference)
    for shared in objective.reference_branches:
        branch = shared.removesuffix("_shared")
        # of n tokens with 1 ... n parts, the first m have m (m + 1) of n (n + 1) parts
        share = least * (least + 1) / (logps.length[branch] * (logps.length[branch] + 1))
        reference[shared] = logps.reference[branch] * share
    return TokenLogps(logps.policy, reference, logps.length, logps.means, tokens, collision)


def moved(logps: Logps, policy: dict[str, Tensor]) -> Logps:
    """The same pairs under another policy."""
    if isinstance(logps, TokenLogps):
        return replace(logps, policy=policy, tokens={b: dealt(v, logps.length[b]) for b, v in policy.items()})
    return replace(logps, policy=policy)


def last_of(logps: Logps) -> Logps:
    """Only the last pair, which knows as much of its batch as before."""
    groups = {name: getattr(logps, name) for name in ("policy", "reference", "length")}
    kept = {name: {b: values[-1:] for b, values in group.items()} for name, group in groups.items()}
    if isinstance(logps, TokenLogps):
        counts = {b: int(lengths[-1]) for b, lengths in logps.length.items()}
        for name in ("tokens", "collision"):
            kept[name] = {b: values[-counts[b] :] for b, values in getattr(logps, name).items()}
    return replace(logps, **kept)


def gradients(loss: Tensor, logps: Logps) -> dict[str, Tensor]:
    """d loss / d log-prob of each branch; zero where the loss does not look."""
    found = torch.autograd.grad(loss.sum(), list(logps.policy.values()), allow_unused=True, retain_graph=True)
    grads = zip(logps.policy.items(), found, strict=True)
    return {branch: torch.zeros_like(leaf) if grad is None else grad for (branch, leaf), grad in grads}
