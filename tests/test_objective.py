"""Every registered loss matches an independent naive twin and has the properties that the engine relies on.

A new loss is tested here automatically; tests/naive_losses.py gets its twin.
"""

import math
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch

from focalpo.training.objective import DPO, IPO, OBJECTIVES, RDPO, Logps
from tests.logps import BRANCHES, gradients, last_of, moved, one_pair, random_logps, seen_by
from tests.naive_losses import NAIVE, rows_of, with_naive_options

# Their weight of a pair is a constant in the gradient: test_objective_weighing.py has its closed form.
WITH_A_CONSTANT = ("wpo", "amapo", "beta_dpo")


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
