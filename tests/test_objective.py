"""Every registered loss matches an independent naive twin and has the properties that the engine relies on.

A new loss is tested here automatically; add its twin to NAIVE, the same loss in plain floats, about five lines.
"""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
import torch

from focalpo.training.objective import DPO, IPO, OBJECTIVES, RDPO, Logps
from tests.logps import BRANCHES, gradients, one_pair, random_logps, seen_by


class Row(NamedTuple):
    """One pair in plain floats: log-probs, reference log-probs, lengths, and the batch's means."""

    w: float
    l: float  # noqa: E741
    ref_w: float
    ref_l: float
    n_w: float
    n_l: float
    mean_n: float
    mean_kl: float


def wins(reward: float, other: float) -> float:
    """Bradley-Terry as a ratio of strengths, a form that no loss here computes."""
    return math.exp(reward) / (math.exp(reward) + math.exp(other))


def naive_focal(r: Row, factor: Callable[[float], float]) -> tuple[float, float, float]:
    p = wins(0.3 * (r.w - r.ref_w), 0.3 * (r.l - r.ref_l))
    return -factor(p) * math.log(p), 0.3 * (r.w - r.ref_w), 0.3 * (r.l - r.ref_l)


def naive_rdpo(r: Row) -> tuple[float, float, float]:
    rewards = 0.3 * (r.w - r.ref_w) + 0.1 * r.n_w, 0.3 * (r.l - r.ref_l) + 0.1 * r.n_l
    return -math.log(wins(*rewards)), *rewards


def naive_kto(r: Row) -> tuple[float, float, float]:
    gain, pain, z = 0.3 * (r.w - r.ref_w), 0.3 * (r.l - r.ref_l), 0.3 * max(0.0, r.mean_kl)
    return 1.5 * (1 - wins(gain, z)) + 0.5 * (1 - wins(z, pain)), gain, pain


def naive_simpo(r: Row) -> tuple[float, float, float]:
    rewards = 2.5 * r.w / r.n_w, 2.5 * r.l / r.n_l
    return -math.log(wins(rewards[0], rewards[1] + 2.5 * 0.4)), *rewards


def naive_orpo(r: Row) -> tuple[float, float, float]:
    p_w, p_l = math.exp(r.w) ** (1 / r.n_w), math.exp(r.l) ** (1 / r.n_l)
    odds_w, odds_l = p_w / (1 - p_w), p_l / (1 - p_l)
    return -r.w / r.mean_n - 0.7 * math.log(odds_w / (odds_w + odds_l)), math.log(odds_w), math.log(odds_l)


def naive_ipo(r: Row) -> tuple[float, float, float]:
    return (r.w - r.l - r.ref_w + r.ref_l - 2) ** 2, (r.w - r.ref_w) / 4, (r.l - r.ref_l) / 4


# options that differ from the defaults, so that each has an effect, and the expected loss and rewards
NAIVE: dict[str, tuple[dict[str, Any], Callable[[Row], tuple[float, float, float]]]] = {
    "focalpo": ({"beta": 0.3, "gamma": 0.7}, lambda r: naive_focal(r, lambda p: p**0.7)),
    "focal": ({"beta": 0.3, "gamma": 0.7}, lambda r: naive_focal(r, lambda p: (1 - p) ** 0.7)),
    "dpo": ({"beta": 0.3}, lambda r: naive_focal(r, lambda p: 1)),
    "rdpo": ({"beta": 0.3, "alpha": 0.1}, naive_rdpo),
    "ipo": ({"tau": 0.25}, naive_ipo),
    "kto": ({"beta": 0.3, "chosen_weight": 1.5, "rejected_weight": 0.5}, naive_kto),
    "simpo": ({"beta": 2.5, "gamma_beta_ratio": 0.4}, naive_simpo),
    "sft": ({}, lambda r: (-r.w / r.mean_n, r.w, 0.0)),
    "cpo": (
        {"beta": 0.3, "sft_weight": 0.4},
        lambda r: (-math.log(wins(0.3 * r.w, 0.3 * r.l)) - 0.4 * r.w / r.mean_n, 0.3 * r.w, 0.3 * r.l),
    ),
    "orpo": ({"odds_weight": 0.7}, naive_orpo),
    "slic": (
        {"delta": 0.5, "sft_weight": 0.4, "sft_term": "sum"},
        lambda r: ((0.5 - r.w + r.l if r.w - r.l < 0.5 else 0.0) - 0.4 * r.w, r.w, r.l),
    ),
    "rrhf": (
        {"sft_weight": 0.4, "sft_term": "sum"},
        lambda r: (max(r.l / r.n_l, r.w / r.n_w) - r.w / r.n_w - 0.4 * r.w, r.w / r.n_w, r.l / r.n_l),
    ),
}


def rows_of(logps: Logps) -> list[Row]:
    groups = (logps.policy, logps.reference, logps.length)
    policy, reference, length = ([group[branch].tolist() for branch in BRANCHES] for group in groups)
    pairs = len(policy[0])
    kl = sum(p - r for p, r in zip(policy[2], reference[2], strict=True)) / pairs
    columns = zip(*policy[:2], *reference[:2], *length[:2], strict=True)
    return [Row(*column, sum(length[0]) / pairs, kl) for column in columns]


def with_naive_options(name: str) -> Any:
    return OBJECTIVES[name](**NAIVE.get(name, ({}, None))[0])


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_and_rewards_equal_the_naive_twin(name: str, seed: int) -> None:
    logps = random_logps(31, seed)
    found = with_naive_options(name)(seen_by(with_naive_options(name), logps))
    expected = torch.tensor([NAIVE[name][1](row) for row in rows_of(logps)], dtype=torch.float64)
    ours = torch.stack([found.loss.detach(), found.chosen_reward, found.rejected_reward], dim=1)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    objective = with_naive_options(name)
    logps = seen_by(objective, random_logps(5, seed=3))

    def loss(*policy: torch.Tensor) -> torch.Tensor:
        return objective(replace(logps, policy=dict(zip(objective.branches, policy, strict=True)))).loss

    assert torch.autograd.gradcheck(loss, [logps.policy[branch] for branch in objective.branches])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gradient_step_raises_the_chosen_and_lowers_the_rejected_response(name: str) -> None:
    """At the start of training, policy = reference, with the rejected response slightly likelier: hinges are active."""
    logps = one_pair((-8, -7, -9), (-8, -7, -9), (4, 4, 4))
    for leaf in logps.policy.values():
        leaf.requires_grad_()
    objective = OBJECTIVES[name]()
    slope = gradients(objective(seen_by(objective, logps)).loss, logps)
    assert slope["chosen"] < 0
    assert slope["rejected"] > 0 if "rejected" in objective.branches else slope["rejected"] == 0
    assert slope["mismatched"] == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_are_finite_in_fp32_at_margins_of_a_million_nats(name: str) -> None:
    """beta D = ±1e4 at beta 0.01, and every combination of very unlikely and certain responses."""
    far = torch.tensor([-1e6, -1e6, 0.0, 0.0, -1e-7])
    logps = Logps(
        {"chosen": far.clone().requires_grad_(), "rejected": far.flip(0).requires_grad_(), "mismatched": far},
        {branch: torch.zeros(5) for branch in BRANCHES},
        {branch: torch.full((5,), 7.0) for branch in BRANCHES},
        {},
    )
    objective = OBJECTIVES[name]()
    loss = objective(seen_by(objective, logps)).loss
    loss.sum().backward()
    assert loss.isfinite().all()
    for branch in objective.branches:
        assert logps.policy[branch].grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name, cls in OBJECTIVES.items() if "rejected" in cls.branches])
def test_swapping_the_pair_swaps_the_rewards(name: str) -> None:
    objective, logps = with_naive_options(name), random_logps(9, seed=4)
    swap = {"chosen": "rejected", "rejected": "chosen", "mismatched": "mismatched"}
    groups = (logps.policy, logps.reference, logps.length)
    swapped = Logps(*({branch: group[swap[branch]] for branch in BRANCHES} for group in groups), {})
    straight, turned = objective(seen_by(objective, logps)), objective(seen_by(objective, swapped))
    assert torch.equal(straight.chosen_reward, turned.rejected_reward)
    assert torch.equal(straight.rejected_reward, turned.chosen_reward)
    assert not straight.chosen_reward.requires_grad and straight.loss.requires_grad


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_of_a_pair_depends_on_its_batch_only_through_the_means(name: str) -> None:
    objective = with_naive_options(name)
    seen = seen_by(objective, random_logps(6, seed=5))
    groups = (seen.policy, seen.reference, seen.length)
    last = Logps(*({branch: values[5:] for branch, values in group.items()} for group in groups), seen.means)
    torch.testing.assert_close(objective(last).loss, objective(seen).loss[5:], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_describes_itself_and_rejects_unknown_options(name: str) -> None:
    cls = OBJECTIVES[name]
    assert cls.name == name
    for text in (cls.label, cls.equation, cls.source):
        assert text and "\n" not in text
    with pytest.raises(TypeError, match="gama"):
        cls(gama=1)
    with pytest.raises(AttributeError):
        object.__setattr__(cls(), "gama", 1)  # what OmegaConf does; slots refuse it
    assert cls() == cls(**{f.name: f.default for f in fields(cls)})


def test_labels_are_those_of_the_papers_table() -> None:
    table = {"FocalPO", "DPO", "IPO", "KTO", "CPO", "ORPO", "R-DPO", "SimPO", "SLiC-HF", "RRHF", "SFT"}
    labels = [cls.label for cls in OBJECTIVES.values()]
    assert table <= set(labels) and len(labels) == len(set(labels))


@pytest.mark.parametrize("name", [name for name, cls in OBJECTIVES.items() if fields(cls)])
def test_all_mistakes_of_a_loss_are_reported_at_once_with_field_value_and_range(name: str) -> None:
    bad = {float: math.nan, str: "tokenmean"}
    options = {f.name: bad[type(f.default)] for f in fields(OBJECTIVES[name]) if type(f.default) in bad}
    with pytest.raises(ValueError, match=f"^{name}: ") as error:
        OBJECTIVES[name](**options)
    for option, given in options.items():
        meaning = "a finite number >" if given is bad[float] else "token_mean or sum"
        assert f"objective.{option}={given!r} must be {meaning}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cls", "options"), [(DPO, {"beta": 0}), (DPO, {"beta": math.inf}), (RDPO, {"alpha": -0.1}), (IPO, {"tau": -1})]
)
def test_the_limits_of_the_ranges_are_enforced(cls: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"objective.{next(iter(options))}="):
        cls(**options)
    assert RDPO(alpha=0).alpha == 0
