"""How much weight each loss gives a pair, by autograd: against the pair's margin, and against its lengths.

u    the pair's margin: the chosen response is u/2 nats likelier than under the reference, the rejected one u/2 less
w    how strongly the loss widens it, -dL/du; below 0 it pulls the pair back, or pushes it further the wrong way
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focalpo.training.objective import OBJECTIVES, BatchLevel, BatchLogps, Logps, Objective, TokenLevel, TokenLogps

START = -1.5
"""Log-prob of every token under the reference, nats."""
LENGTHS = {"equally long": (40, 40), "chosen twice as long": (80, 40), "rejected twice as long": (40, 80)}
"""Response tokens of chosen and rejected."""
COLLISION = -0.5
"""The log of the sum of squared probabilities at every token."""
BATCH = torch.linspace(-10, 30, 41, dtype=torch.float64)
"""Margins of the other pairs of the batch, for losses that look at them, nats."""
MARGINS = [float(margin) for margin in range(-60, 61)]
BETA = 0.1
"""Of every loss that has a beta and sums log-probs: p runs from 0.002 to 0.998."""
PER_TOKEN = ("simpo", "omni_dpo", "amapo")
OPTIONS: dict[str, dict[str, Any]] = {
    "focalpo": {"gamma": 0.25},  # at the default, 0.05, the sign changes at -200 nats
    "focal": {"gamma": 2.0},  # Lin et al.'s
    "rdpo": {"alpha": 0.05},
    "exo": {"label_smoothing": 0.1},  # cDPO's; at the default its weight changes sign at 69 nats
    "dpop": {"penalty": 5.0},  # the default's weight of pairs whose chosen response lost would hide all others
    "beta_dpo": {"alpha": 0.01},
}
"""What differs from the defaults, so that a panel shows what is particular to its loss."""
DETACHED = ", detached"
"""Of the label of a factor's other reading."""
LOW = 0.05
"""A weight that counts as none."""
REVERSED = 0.005
"""A weight this far below 0 counts as one of the wrong sign."""
KINDS = ("margins", "rewards", "tokens", "batches", "per_token", "imitation")
"""The files of losses, in the order in which theirs are shown."""


@dataclass(frozen=True, slots=True)
class Region:
    """Margins, nats, at which a loss gives a pair no weight, or one of the wrong sign."""

    low: float
    high: float
    reversed: bool


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
        return self.weights["equally long"][self.margins.index(margin)]

    def regions(self) -> list[Region]:
        """Where a pair of equally long responses has no weight or one of the wrong sign."""
        kinds = [None if w > LOW else w < -REVERSED for w in self.weights["equally long"]]
        found: list[Region] = []
        for place, kind in enumerate(kinds):
            here = self.margins[place]
            if kind is not None and place and kinds[place - 1] == kind:
                found[-1] = Region(found[-1].low, here, kind)
            elif kind is not None:
                found.append(Region(here, here, kind))
        return found


def curves() -> dict[str, Curve]:
    """The weights of every loss that ranks, by its label; those with a factor in both readings."""
    found = {}
    for name, cls in sorted(OBJECTIVES.items(), key=lambda item: _place(item[1])):
        if "rejected" in cls.branches:
            sums = hasattr(cls, "beta") and name not in PER_TOKEN
            options: dict[str, Any] = ({"beta": BETA} if sums else {}) | OPTIONS.get(name, {})
            found[cls.label] = curve(cls(**options), MARGINS)
            if hasattr(cls, "detach_factor"):
                found[cls.label + DETACHED] = curve(cls(**options | {"detach_factor": True}), MARGINS)
    return {"DPO": found.pop("DPO")} | found


def _place(cls: type[Objective]) -> int:
    kind = cls.__module__.rpartition(".")[2]
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def curve(objective: Objective, margins: Sequence[float]) -> Curve:
    """The weights that a loss gives to pairs with these margins, nats."""
    u = torch.tensor(margins, dtype=torch.float64)
    found = {name: weight(objective, u, *lengths) for name, lengths in LENGTHS.items()}
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
