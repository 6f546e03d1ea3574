"""docs/weights.md: the weight of a pair by autograd, in closed form where there is one, and its regions by hand."""

import math
from pathlib import Path

import pytest
import torch

from focalpo.reporting.weights import sacrificed, weights_figure
from focalpo.training.objective import DPO, IPO, RDPO, SimPO
from focalpo.training.weights import Curve, Region, curve, curves, weight
from recipes import publish as recipe

ROOT = Path(__file__).parent.parent
U = [-30.0, -1.0, 0.0, 2.0, 30.0]


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_weights_in_closed_form() -> None:
    """DPO beta sig(-beta u), R-DPO the same at beta u + alpha (|w| - |l|), IPO 2 (1/(2 tau) - u).

    SimPO: beta c sig(beta (r - c u)), where u moves the margin per token by c = (1/|w| + 1/|l|)/2.
    """
    columns = {
        DPO(beta=0.1): [0.1 * sig(-0.1 * x) for x in U],
        RDPO(beta=0.1, alpha=0.05): [0.1 * sig(-0.1 * x - 0.05 * 40) for x in U],
        IPO(tau=0.01): [2 * (50 - x) for x in U],
        SimPO(beta=2, gamma_beta_ratio=0.5): [2 * 0.01875 * sig(1 - 2 * 0.01875 * x) for x in U],
    }
    for objective, expected in columns.items():
        found = weight(objective, torch.tensor(U, dtype=torch.float64), chosen=80, rejected=40)
        assert found.tolist() == pytest.approx(expected, rel=1e-9), objective.name


def test_a_curve_is_relative_to_its_largest_weight_and_says_whether_lengths_matter() -> None:
    dpo, rdpo = curve(DPO(beta=0.1), U), curve(RDPO(beta=0.1), U)
    assert dpo.at(-30.0) == 1 and dpo.at(0.0) == pytest.approx(0.5 / sig(3))
    assert not dpo.of_length and rdpo.of_length


def test_regions_and_their_names_by_hand() -> None:
    """The pair at -30 is pushed further, the one at -20 has no weight; at 20 it has none, at 30 it is pulled back."""
    margins = [-30.0, -20.0, 0.0, 10.0, 20.0, 30.0]
    made = Curve(margins, {"equally long": [-0.2, 0.01, 1.0, 0.5, 0.04, -0.3]})
    assert made.regions() == [
        Region(-30, -30, True),
        Region(-20, -20, False),
        Region(20, 20, False),
        Region(30, 30, True),
    ]
    assert sacrificed(made) == ["wrong < -30: reversed", "right > 30: pulled back"]
    assert sacrificed(Curve(margins, {"equally long": [1.0] * 6})) == ["gives up none"]
    assert sacrificed(Curve(margins, {"equally long": [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]})) == [
        "wrong < -20: given up", "right > 20: let go"
    ]  # fmt: skip


def test_the_page_in_docs_is_what_the_losses_give() -> None:
    assert (ROOT / "docs/weights.md").read_text() == recipe.page(curves())


def test_the_figure_has_a_panel_for_each_loss(tmp_path: Path) -> None:
    weights_figure({"DPO": curve(DPO(), U), "IPO": curve(IPO(), U)}, tmp_path / "weights")
    assert (tmp_path / "weights.svg").read_text().count('id="axes_') == 5, "the grid's other panels are switched off"
    assert (tmp_path / "weights.png").is_file()
