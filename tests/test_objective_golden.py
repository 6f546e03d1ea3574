"""Our losses against TRL 1.16.0's own code on the same log-probs, in value and gradient (see golden/README.md)."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from focalpo.training.objective import (
    CDPO,
    CPO,
    DPO,
    EXO,
    IPO,
    KTO,
    LDDPO,
    NCA,
    ORPO,
    RPO,
    SFT,
    WPO,
    APODown,
    APOZero,
    Logps,
    RobustDPO,
    SimPO,
    SLiC,
)
from tests.logps import gradients, seen_by

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_losses.json").read_text())


def recorded_logps() -> Logps:
    def group(name: str, leaf: bool = False) -> dict[str, Tensor]:
        values = GOLDEN["inputs"][name].items()
        return {b: torch.tensor(v, dtype=torch.float64, requires_grad=leaf) for b, v in values}

    return Logps(group("policy", leaf=True), group("reference"), group("length"), {})


def assert_same(ours: Tensor, theirs: list[float] | float, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(ours.detach(), torch.tensor(theirs, dtype=torch.float64), rtol=rtol, atol=1e-14)


def assert_same_gradients(mean_loss: Tensor, logps: Logps, theirs: dict, rtol: float = 1e-12) -> None:
    ours = gradients(mean_loss, logps)
    for branch in ("chosen", "rejected"):
        assert_same(ours[branch], theirs[f"gradient_{branch}"], rtol)


def test_the_numbers_were_recorded_from_trl_1_16_0() -> None:
    assert GOLDEN["versions"]["trl"] == "1.16.0"


@pytest.mark.parametrize(
    ("key", "objective"), [("dpo_sigmoid", DPO(beta=0.1)), ("dpo_ipo", IPO(tau=0.25, normalisation="token_mean"))]
)
def test_dpo_and_length_averaged_ipo_agree_with_trl(key: str, objective: DPO | IPO) -> None:
    """TRL's IPO always divides each log-ratio by its length: our `token_mean`; its beta is the paper's tau."""
    logps = recorded_logps()
    loss = objective(seen_by(objective, logps)).loss
    assert_same(loss, GOLDEN[key]["loss"])
    assert_same_gradients(loss.mean(), logps, GOLDEN[key])


OF_A_PAIR = {
    "dpo_robust": RobustDPO(beta=0.1, label_smoothing=0.2),
    "dpo_nca_pair": NCA(beta=0.1),
    "dpo_apo_zero": APOZero(beta=0.1),
    "dpo_apo_down": APODown(beta=0.1),
    "dpo_ld": LDDPO(beta=0.1, alpha=0.25),
    "dpo_wpo": WPO(beta=0.1),
}


@pytest.mark.parametrize("key", OF_A_PAIR)
def test_losses_of_a_pair_agree_with_trl(key: str) -> None:
    """Single tokens and their squares are made up by one rule, here and where they were recorded. WPO's weights, which
    TRL does not stop at 1, are below it."""
    logps, objective = recorded_logps(), OF_A_PAIR[key]
    loss = objective(seen_by(objective, logps)).loss
    assert_same(loss, GOLDEN[key]["loss"])
    assert_same_gradients(loss.mean(), logps, GOLDEN[key])


def test_exo_agrees_with_trl_to_its_fp32_constants() -> None:
    logps, exo = recorded_logps(), EXO(beta=0.1, label_smoothing=0.05)
    loss = exo(seen_by(exo, logps)).loss
    assert_same(loss, GOLDEN["dpo_exo_pair"]["loss"], rtol=1e-5)
    assert_same_gradients(loss.mean(), logps, GOLDEN["dpo_exo_pair"], rtol=1e-5)


def test_cdpo_without_a_reference_is_trls_cpo_with_label_smoothing() -> None:
    logps, theirs = recorded_logps(), GOLDEN["cpo_smoothed"]
    bare = Logps(logps.policy, {b: torch.zeros_like(v) for b, v in logps.reference.items()}, logps.length, {})
    loss = CDPO(beta=0.1, label_smoothing=0.2)(bare).loss
    assert_same(loss, theirs["ranking"])
    assert_same_gradients(loss.mean(), logps, theirs)


def test_rpo_agrees_with_trls_sum_of_dpo_and_sft() -> None:
    logps, rpo, theirs = recorded_logps(), RPO(beta=0.1), GOLDEN["dpo_sigmoid_and_sft"]
    loss = rpo(seen_by(rpo, logps)).loss.mean()
    assert_same(loss, theirs["batch_loss"])
    assert_same_gradients(loss, logps, theirs)


def test_summed_ipo_differs_from_trls_ipo() -> None:
    loss = IPO(tau=0.25, normalisation="sum")(recorded_logps()).loss.detach()
    theirs = torch.tensor(GOLDEN["dpo_ipo"]["loss"], dtype=torch.float64)
    assert ((loss - theirs).abs() > 0.1).sum() == 5  # all but the pair whose margin is 0 either way


def test_slic_on_log_ratios_is_trls_dpo_hinge() -> None:
    """TRL: max(0, 1 - beta D) = beta max(0, 1/beta - D), so delta = 1/beta, log-ratios for log-probs, times beta."""
    logps = recorded_logps()
    slic = SLiC(delta=1 / 0.1, sft_weight=0)
    ratios = {branch: logps.ratio(branch) for branch in slic.branches}
    loss = 0.1 * slic(Logps(ratios, {}, logps.length, {"tokens": torch.tensor(1.0)})).loss
    assert_same(loss, GOLDEN["dpo_hinge"]["loss"])
    assert_same_gradients(loss.mean(), logps, GOLDEN["dpo_hinge"])


def test_sft_agrees_with_trls_mean_over_the_tokens_of_the_batch() -> None:
    logps = recorded_logps()
    loss = SFT()(seen_by(SFT(), logps)).loss.mean()
    assert_same(loss, GOLDEN["dpo_sft"]["batch_loss"])
    assert_same_gradients(loss, logps, GOLDEN["dpo_sft"])


def test_cpo_agrees_with_trl_with_and_without_its_imitation() -> None:
    """TRL's NLL is the mean over the batch's response tokens: our default `token_mean`."""
    logps, theirs = recorded_logps(), GOLDEN["cpo_sigmoid"]
    assert_same(CPO(beta=0.1, sft_weight=0)(seen_by(CPO(), logps)).loss, theirs["ranking"])
    loss = CPO(beta=0.1, sft_weight=1)(seen_by(CPO(), logps)).loss.mean()
    assert_same(loss, theirs["batch_loss"])
    assert_same_gradients(loss, logps, theirs)


def test_slic_is_trls_cpo_hinge() -> None:
    """TRL scales log-probs by beta inside the hinge: delta = 1/beta, times beta outside, its NLL weight over beta."""
    logps, theirs = recorded_logps(), GOLDEN["cpo_hinge"]
    seen = seen_by(SLiC(), logps)
    assert_same(0.1 * SLiC(delta=1 / 0.1, sft_weight=0)(seen).loss, theirs["ranking"])
    loss = 0.1 * SLiC(delta=1 / 0.1, sft_weight=1 / 0.1)(seen).loss.mean()
    assert_same(loss, theirs["batch_loss"])
    assert_same_gradients(loss, logps, theirs)


def test_simpo_agrees_with_trl() -> None:
    """TRL's simpo_gamma is the margin gamma; ours is the ratio gamma / beta that SimPO's README tunes."""
    logps, theirs = recorded_logps(), GOLDEN["cpo_simpo"]
    beta, gamma = theirs["settings"]["beta"], theirs["settings"]["simpo_gamma"]
    loss = SimPO(beta=beta, gamma_beta_ratio=gamma / beta)(seen_by(SimPO(), logps)).loss
    assert_same(loss, theirs["ranking"])
    assert_same(loss.mean(), theirs["batch_loss"])
    assert_same_gradients(loss.mean(), logps, theirs)


def test_orpo_agrees_with_trl_to_its_fp32() -> None:
    """TRL always ranks in fp32. Its NLL covers the prompt too; it was recorded with a prompt that is not predicted."""
    logps, theirs = recorded_logps(), GOLDEN["orpo"]
    seen = seen_by(ORPO(), logps)
    loss = ORPO(odds_weight=0.1)(seen).loss
    assert_same(loss - ORPO().sft(seen), theirs["ranking"], rtol=1e-6)
    assert_same(loss.mean(), theirs["batch_loss"], rtol=1e-6)
    assert_same_gradients(loss.mean(), logps, theirs, rtol=1e-6)


def test_kto_of_a_pair_is_the_sum_of_trls_two_responses() -> None:
    """TRL averages over responses, we over pairs: ours is the sum of its two, its beta times the KL is our z."""
    logps, theirs = recorded_logps(), GOLDEN["kto"]
    settings = theirs["settings"]
    weights = settings["desirable_weight"], settings["undesirable_weight"]
    kto = KTO(beta=settings["beta"], chosen_weight=weights[0], rejected_weight=weights[1])
    loss = kto(seen_by(kto, logps)).loss
    assert_same(loss, [w + r for w, r in zip(theirs["loss_chosen"], theirs["loss_rejected"], strict=True)])
    assert_same_gradients(loss, logps, theirs)
