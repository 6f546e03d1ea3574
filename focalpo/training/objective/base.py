"""What a loss is, what it receives and returns, and the registry in which `@objective` enters it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from focalpo.stages.ranges import out_of_range

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from focalpo.training import later as torch
    from focalpo.training.later import Tensor

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
class TokenLogps(Logps):
    """Log-probs of each token beside their sums: one response's tokens after the other's, in the order of the pairs."""

    tokens: dict[str, Tensor]  # branch -> [tokens], `length` of each pair, nats, with gradient
    collision: dict[str, Tensor]  # same, log of the sum of squared probabilities of all tokens there, no gradient

    def summed(self, branch: str, values: Tensor, first: Tensor | None = None) -> Tensor:
        """Sum `values`, `[tokens]` of a branch, over each response, or over its `first` tokens, `[pairs]`."""
        counts = self.length[branch].long()
        owners = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        if first is not None:
            places = torch.arange(len(values), device=counts.device) - (counts.cumsum(0) - counts)[owners]
            values = values * (places < first[owners])
        return values.new_zeros(len(counts)).index_add(0, owners, values)


@dataclass(frozen=True, slots=True)
class BatchLogps(Logps):
    """Log-probs of some pairs, and what the loss must know of every pair of their global batch."""

    batch: dict[str, Tensor]  # what batch_terms returned, [pairs of the GLOBAL batch], in its order, no gradient


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


class TokenLevel(Objective):
    """Base class of losses that need the log-prob of each token. No other loss pays for them."""

    __slots__ = ()
    reference_branches: ClassVar[tuple[str, ...]] = ()  # whose reference it needs beside chosen and rejected

    def __call__(self, logps: Logps) -> Loss:
        assert isinstance(logps, TokenLogps)
        return self.of_tokens(logps)

    def of_tokens(self, logps: TokenLogps) -> Loss:
        raise NotImplementedError


class BatchLevel(Objective):
    """Base class of losses whose weight of a pair depends on the other pairs: on quantiles, say, or a deviation.

    They see `batch_terms` of every pair, not only the means, so that any statistic is the same for any number of ranks
    and micro-batches. It costs a forward pass over the batch, without gradient, before each step.
    """

    __slots__ = ()
    batch_branches = ("chosen", "rejected")

    def __call__(self, logps: Logps) -> Loss:
        assert isinstance(logps, BatchLogps)
        return self.in_batch(logps)

    def in_batch(self, logps: BatchLogps) -> Loss:
        raise NotImplementedError


def reference_beside(objective: Objective) -> tuple[str, ...]:
    """The branches whose reference log-probs a loss needs beside those of chosen and rejected responses."""
    more = objective.reference_branches if isinstance(objective, TokenLevel) else ()
    return tuple(branch for branch in (*objective.batch_branches, *more) if branch not in Objective.branches)


@dataclass_transform(frozen_default=True)
def objective(name: str) -> Callable[[type], type]:
    """Register a loss under `name` as a frozen dataclass; its slots reject options that do not exist."""
    assert name not in OBJECTIVES, f"two losses are called {name}"

    def register(cls: Any) -> type:
        OBJECTIVES[name] = cls = dataclass(frozen=True, slots=True)(cls)
        cls.name, cls.label = name, getattr(cls, "label", cls.__name__)
        return cls

    return register
