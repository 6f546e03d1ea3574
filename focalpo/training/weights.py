"""How much weight each loss gives a pair, by autograd: against the pair's margin, and against its lengths.

    u    the pair's margin: the chosen response is u/2 nats likelier than under the reference, the rejected one u/2 less
    w    how strongly the loss widens it, -dL/du; below 0 it pulls the pair back, or pushes it further the wrong way
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from focalpo.training.objective import BatchLevel, BatchLogps, Logps, Objective, TokenLevel, TokenLogps

START = -1.5
"""Log-prob of every token under the reference, nats."""
LENGTH = 40
"""Response tokens of the shorter response, and of both where they are equally long."""
LENGTHS = {"equally long": (1, 1), "chosen twice as long": (2, 1), "rejected twice as long": (1, 2)}
COLLISION = -0.5
"""The log of the sum of squared probabilities at every token."""
BATCH = torch.linspace(-20, 20, 41, dtype=torch.float64)
"""Margins of the other pairs of the batch, for losses that look at them, nats."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A loss's weight at each margin, for each relation of lengths; 1 is its largest at equal lengths."""

    margins: list[float]  # nats
    weights: dict[str, list[float]]  # by the names of LENGTHS

    @property
    def of_length(self) -> bool:
        """Whether the weight depends on the lengths at all."""
        first, *others = (torch.tensor(values) for values in self.weights.values())
        return any(not torch.allclose(first, other, atol=1e-3) for other in others)

    def at(self, margin: float) -> float:
        """The weight at a margin of the grid, of equally long responses."""
        return next(iter(self.weights.values()))[self.margins.index(margin)]


def curve(objective: Objective, margins: Sequence[float]) -> Curve:
    """The weights that a loss gives to pairs with these margins, nats."""
    u = torch.tensor(margins, dtype=torch.float64)
    found = {name: weight(objective, u, LENGTH * w, LENGTH * l) for name, (w, l) in LENGTHS.items()}
    largest = found["equally long"].abs().max()
    return Curve(list(margins), {name: (values / largest).tolist() for name, values in found.items()})


def weight(objective: Objective, margins: Tensor, chosen: int, rejected: int) -> Tensor:
    """-dL/du at these margins, `[margins]`, of responses with so many tokens."""
    u = margins.clone().requires_grad_()
    loss = objective(_seen(objective, _pairs(u, chosen, rejected), _pairs(BATCH, chosen, rejected))).loss
    return -torch.autograd.grad(loss.sum(), u)[0]


def _pairs(u: Tensor, chosen: int, rejected: int) -> Logps:
    length = {"chosen": torch.full_like(u, chosen), "rejected": torch.full_like(u, rejected)}
    length = {branch: values.detach() for branch, values in length.items()}
    reference = {branch: START * values for branch, values in length.items()}
    policy = {"chosen": reference["chosen"] + u / 2, "rejected": reference["rejected"] - u / 2}
    # Of unrelated answers, none is likelier than under the reference: KTO's z is 0
    same = {"mismatched": reference["chosen"]}
    return Logps(policy | same, reference | same, length, {})


def _seen(objective: Objective, pairs: Logps, batch: Logps) -> Logps:
    """What the loss receives of these pairs, in a batch of those."""
    terms = {name: term.detach() for name, term in objective.batch_terms(batch).items()}
    if isinstance(objective, BatchLevel):
        return BatchLogps(pairs.policy, pairs.reference, pairs.length, {}, terms)
    if isinstance(objective, TokenLevel):
        return _with_tokens(pairs)
    return Logps(pairs.policy, pairs.reference, pairs.length, {name: term.mean() for name, term in terms.items()})


def _with_tokens(pairs: Logps) -> TokenLogps:
    """Every token of a response has the same share of its log-prob."""
    counts = {branch: values.long() for branch, values in pairs.length.items()}
    tokens = {b: (pairs.policy[b] / pairs.length[b]).repeat_interleave(counts[b]) for b in counts}
    collision = {b: torch.full_like(values, COLLISION) for b, values in tokens.items()}
    least = torch.minimum(*pairs.length.values())
    shared = {f"{b}_shared": pairs.reference[b] * least / pairs.length[b] for b in counts}
    return TokenLogps(pairs.policy, pairs.reference | shared, pairs.length, {}, tokens, collision)
