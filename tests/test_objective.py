"""Every registered loss matches an independent naive twin and has the properties that the engine relies on.

A new loss is tested here automatically; add its twin to NAIVE, the same loss in plain floats, about five lines.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest
import torch

from focalpo.training.objective import DPO, IPO, OBJECTIVES, RDPO, Logps
from tests.logps import BRANCHES, gradients, last_of, moved, one_pair, random_logps, seen_by

# Their weight of a pair is a constant in the gradient: test_objective_weighing.py has its closed form.
WITH_A_CONSTANT = ("wpo", "amapo", "beta_dpo")


class Row(NamedTuple):
    """One pair in plain floats: log-probs, reference log-probs, lengths, the batch's means, and its summed margins
    and margins per token."""

    w: float
    l: float  # noqa: E741
    ref_w: float
    ref_l: float
    n_w: float
    n_l: float
    mean_n: float
    mean_kl: float
    margins: tuple[float, ...]
    per_token: tuple[float, ...]


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


def rewards(r: Row, beta: float) -> tuple[float, float]:
    return beta * (r.w - r.ref_w), beta * (r.l - r.ref_l)


def naive_smoothed(r: Row, loss: Callable[[float], float]) -> tuple[float, float, float]:
    return loss(wins(*rewards(r, 0.3))), *rewards(r, 0.3)


def sig(x: float) -> float:
    return wins(x, 0)


def naive_nca(r: Row) -> tuple[float, float, float]:
    p_w, p_l = (sig(x) for x in rewards(r, 0.3))
    return -math.log(p_w) - (math.log(1 - p_w) + math.log(1 - p_l)) / 2, *rewards(r, 0.3)


def naive_dpop(r: Row) -> tuple[float, float, float]:
    lost = max(0.0, r.ref_w - r.w)
    return -math.log(sig(0.3 * (r.w - r.ref_w - r.l + r.ref_l - 5 * lost))), *rewards(r, 0.3)


def naive_omni(r: Row) -> tuple[float, float, float]:
    a, b = 1.2 * (r.w - r.ref_w) / r.n_w, 1.2 * (r.l - r.ref_l) / r.n_l
    unsure = 1 - sig(1.2 * (r.w / r.n_w - r.l / r.n_l) - 0.4)
    return -(unsure**1.5) * math.log(sig(a - b)) + (-0.3 * r.w / r.n_w if r.w < r.ref_w else 0), a, b


def tokens_of(total: float, length: float) -> list[float]:
    parts = range(1, int(length) + 1)
    return [total * part / sum(parts) for part in parts]


def naive_wpo(r: Row) -> tuple[float, float, float]:
    weight = 1.0
    for total, length in ((r.w, r.n_w), (r.l, r.n_l)):
        ratios = [math.exp(lp + 0.3 * (t + 1) / length) for t, lp in enumerate(tokens_of(total, length))]
        weight *= math.prod(ratios) ** (1 / length)
    return -min(1.0, weight) * math.log(sig(0.3 * (r.w - r.ref_w - r.l + r.ref_l))), *rewards(r, 0.3)


def naive_ld(r: Row) -> tuple[float, float, float]:
    found = []
    for total, ref, length in ((r.w, r.ref_w, r.n_w), (r.l, r.ref_l, r.n_l)):
        tokens = zip(tokens_of(total, length), tokens_of(ref, length), strict=True)
        counts = [1 if t < min(r.n_w, r.n_l) else 0.25 for t in range(int(length))]
        found.append(0.3 * sum(c * (lp - ref) for c, (lp, ref) in zip(counts, tokens, strict=True)))
    return -math.log(sig(found[0] - found[1])), *found


def naive_beta(r: Row) -> tuple[float, float, float]:
    center = statistics.mean(r.margins)
    kept = sorted(r.margins, key=lambda d: abs(d - center))[: int(len(r.margins) * 0.7)]
    own = r.w - r.ref_w - r.l + r.ref_l
    beta = max(1e-3, 0.3 * (1 + 0.2 * (statistics.mean(kept) - center)))
    is_kept = min(abs(own - d) for d in kept) < 1e-12
    return -math.log(sig(beta * own)) * is_kept * len(r.margins) / len(kept), *rewards(r, 0.3)


def naive_amapo(r: Row) -> tuple[float, float, float]:
    a, b, center = r.w / r.n_w, r.l / r.n_l, statistics.mean(r.per_token)
    z = (center - (a - b)) / statistics.stdev(r.per_token)
    return -math.log(sig(2.5 * (a - b - (math.exp(z * center) if z > 0 else 0)))), 2.5 * a, 2.5 * b


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
    "cdpo": (
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda r: naive_smoothed(r, lambda p: -0.8 * math.log(p) - 0.2 * math.log(1 - p)),
    ),
    "robust_dpo": (
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda r: naive_smoothed(r, lambda p: (-0.8 * math.log(p) + 0.2 * math.log(1 - p)) / 0.6),
    ),
    "exo": (
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda r: naive_smoothed(r, lambda p: p * math.log(p / 0.8) + (1 - p) * math.log((1 - p) / 0.2)),
    ),
    "nca": ({"beta": 0.3}, naive_nca),
    "apo_zero": (
        {"beta": 0.3},
        lambda r: (1 - sig(rewards(r, 0.3)[0]) + sig(rewards(r, 0.3)[1]), *rewards(r, 0.3)),
    ),
    "apo_down": ({"beta": 0.3}, lambda r: (sig(rewards(r, 0.3)[0]) + 1 - wins(*rewards(r, 0.3)), *rewards(r, 0.3))),
    "dpop": ({"beta": 0.3, "penalty": 5}, naive_dpop),
    "omni_dpo": ({"beta": 1.2, "gamma": 1.5, "target_margin": 0.4, "nll_weight": 0.3}, naive_omni),
    "rpo": (
        {"beta": 0.3, "sft_weight": 0.4},
        lambda r: (-math.log(wins(*rewards(r, 0.3))) - 0.4 * r.w / r.mean_n, *rewards(r, 0.3)),
    ),
    "wpo": ({"beta": 0.3}, naive_wpo),
    "ld_dpo": ({"beta": 0.3, "alpha": 0.25}, naive_ld),
    "beta_dpo": ({"beta": 0.3, "alpha": 0.2, "filtered": 0.3}, naive_beta),
    "amapo": ({"beta": 2.5}, naive_amapo),
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
    columns = list(zip(*policy[:2], *reference[:2], *length[:2], strict=True))
    margins = tuple(w - ref_w - (l - ref_l) for w, l, ref_w, ref_l, _, _ in columns)  # noqa: E741
    per_token = tuple(w / n_w - l / n_l for w, l, _, _, n_w, n_l in columns)  # noqa: E741
    return [Row(*column, sum(length[0]) / pairs, kl, margins, per_token) for column in columns]


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


def test_every_loss_has_a_naive_twin() -> None:
    assert NAIVE.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in WITH_A_CONSTANT])
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    objective = with_naive_options(name)
    logps = seen_by(objective, random_logps(5, seed=3))

    def loss(*policy: torch.Tensor) -> torch.Tensor:
        return objective(moved(logps, dict(zip(objective.branches, policy, strict=True)))).loss

    assert torch.autograd.gradcheck(loss, [logps.policy[branch] for branch in objective.branches])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gradient_step_raises_the_chosen_and_lowers_the_rejected_response(name: str) -> None:
    """At the start of training, policy = reference, with the rejected response slightly likelier: hinges are active."""
    logps = one_pair((-8, -7, -9), (-8, -7, -9), (4, 4, 4))
    for leaf in logps.policy.values():
        leaf.requires_grad_()
    objective = OBJECTIVES[name]()
    slope = gradients(objective(seen_by(objective, logps)).loss, logps)
    # APO-down does not hold a chosen response up: it lowers it from any reward above 0
    assert slope["chosen"] < 0 or (name == "apo_down" and slope["chosen"] == 0)
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
def test_the_loss_of_a_pair_depends_on_its_batch_only_through_what_is_known_beforehand(name: str) -> None:
    objective = with_naive_options(name)
    seen = seen_by(objective, random_logps(6, seed=5))
    torch.testing.assert_close(objective(last_of(seen)).loss, objective(seen).loss[5:], rtol=1e-14, atol=0)


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
    ranges = get_type_hints(OBJECTIVES[name], include_extras=True)
    for option, given in options.items():
        assert f"objective.{option}={given!r} must be {get_args(ranges[option])[1]}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cls", "options"), [(DPO, {"beta": 0}), (DPO, {"beta": math.inf}), (RDPO, {"alpha": -0.1}), (IPO, {"tau": -1})]
)
def test_the_limits_of_the_ranges_are_enforced(cls: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"objective.{next(iter(options))}="):
        cls(**options)
    assert RDPO(alpha=0).alpha == 0
