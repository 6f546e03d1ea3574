"""Record what TRL 1.16.0's own loss code makes of fixed log-probs: writes trl_losses.json beside this file.

Log-probs of whole responses are dealt to their tokens; a stub model hands these to TRL's loss methods on trainers that
were never initialised, so nothing is trained. How to run it: README.md beside this file.
"""

import json
import math
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

TRL = "1.16.0"
IGNORED = -100
INPUTS = {
    "policy": {
        "chosen": [-12.5, -40.25, -3.0, -151.5, -8.125, -20.0],
        "rejected": [-14.0, -31.5, -0.75, -170.25, -8.125, -95.5],
        "mismatched": [-60.5, -33.0, -48.75, -210.0, -21.25, -77.0],
    },
    "reference": {
        "chosen": [-13.0, -39.0, -4.5, -160.0, -8.125, -26.5],
        "rejected": [-11.75, -33.5, -1.0, -148.0, -8.125, -80.0],
        "mismatched": [-64.0, -31.5, -50.25, -218.5, -20.75, -79.5],
    },
    "length": {
        "chosen": [5, 17, 3, 64, 4, 11],
        "rejected": [9, 12, 2, 48, 4, 30],
        "mismatched": [20, 9, 14, 80, 6, 25],
    },
}


def tensors(group: str) -> dict[str, Tensor]:
    """One group of INPUTS as fp64 `[pairs]`; those of the policy are leaves of the graph."""
    leaf = group == "policy"
    return {b: torch.tensor(v, dtype=torch.float64, requires_grad=leaf) for b, v in INPUTS[group].items()}


def dealt(total: Tensor, tokens: int) -> Tensor:
    """The log-prob of a response dealt unevenly to its tokens, `[tokens]`."""
    shares = torch.arange(1, tokens + 1, dtype=torch.float64)
    return total * shares / shares.sum()


def rows(totals: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Per-token log-probs `[rows, T]` and the completion mask `[rows, 1 + T]`, after a prompt of one token."""
    width = max(tokens)
    logps = torch.stack([pad(dealt(total, n), (0, width - n)) for total, n in zip(totals, tokens, strict=True)])
    mask = torch.tensor([[0] + [1] * n + [0] * (width - n) for n in tokens])
    return logps, mask


def collisions(tokens: list[int]) -> Tensor:
    """The log of the sum of squared probabilities at each token, 0.3 nats below 0 at a response's last, `[rows, T]`."""
    width = max(tokens)
    return torch.stack([pad(-0.3 * torch.arange(1, n + 1, dtype=torch.float64) / n, (0, width - n)) for n in tokens])


def bare(trainer: type, **settings: Any) -> Any:
    """A trainer without model, data or arguments: only what its loss method reads."""
    made = object.__new__(trainer)
    model = torch.nn.Module()
    model.is_gradient_checkpointing = False

    def gather(value: Tensor) -> Tensor:
        return value  # one process

    vars(made).update(
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=gather, gather_for_metrics=gather),
        model=model,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    return made


def fused_outputs(logps: Tensor, squares: Tensor | None = None) -> SimpleNamespace:
    """What TRL's fused LM head returns; only the log-probs and, for WPO, the squares matter to the loss."""
    empty = torch.zeros_like(logps)
    shown = {"entropy": empty, "mean_logits": empty, "is_top1": empty.bool()}
    return SimpleNamespace(log_probs=logps, log_sum_sq_probs=squares, **shown)


def dpo(
    loss_types: str, beta: float, pairs: slice, ld_alpha: float | None = None, wpo: bool = False, e: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """TRL's mean DPO-family loss (a sum with +) over some of the pairs, and the policy leaves it was computed from."""
    policy, reference = tensors("policy"), tensors("reference")
    totals = torch.cat([policy["chosen"][pairs], policy["rejected"][pairs]])
    tokens = INPUTS["length"]["chosen"][pairs] + INPUTS["length"]["rejected"][pairs]
    logps, mask = rows(totals, tokens)
    frozen, _ = rows(torch.cat([reference["chosen"][pairs], reference["rejected"][pairs]]), tokens)
    types = loss_types.split("+")
    settings = {"loss_types": types, "loss_weights": [1.0] * len(types), "beta": beta, "label_smoothing": e}
    settings |= {"f_divergence_type": "reverse_kl", "ref_model": lambda **_: fused_outputs(frozen)}
    settings |= {"precompute_ref_logps": ld_alpha is None, "ld_alpha": ld_alpha, "use_weighting": wpo}
    trainer = bare(DPOTrainer, **settings)
    inputs = {
        "input_ids": mask,
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference["chosen"][pairs],
        "ref_rejected_logps": reference["rejected"][pairs],
    }
    squares = collisions(tokens)
    return trainer._compute_loss(lambda **_: fused_outputs(logps, squares), inputs, False), policy


def kto(settings: dict[str, float], branch: str, pair: int) -> tuple[Tensor, dict[str, Tensor]]:
    """TRL's KTO loss of one response; the KL is that of all mismatched responses."""
    policy, reference, length = tensors("policy"), tensors("reference"), INPUTS["length"]
    logps, mask = rows(policy[branch][pair : pair + 1], length[branch][pair : pair + 1])
    kl_logps, kl_mask = rows(policy["mismatched"], length["mismatched"])
    trainer = bare(KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **settings)
    inputs = {
        "label": torch.tensor([branch == "chosen"]),
        "input_ids": mask,
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": kl_mask,
        "KL_attention_mask": torch.ones_like(kl_mask),
        "KL_completion_mask": kl_mask,
        "ref_logps": reference[branch][pair : pair + 1],
        "ref_KL_logps": reference["mismatched"],
    }
    by_width = {mask.shape[1]: logps, kl_mask.shape[1]: kl_logps}
    assert len(by_width) == 2, "the two forwards must differ in width, the stub tells them apart by it"
    loss = trainer._compute_loss(lambda input_ids, **_: fused_outputs(by_width[input_ids.shape[1]]), inputs, False)
    return loss, policy


def reference_free(trainer: type, **settings: Any) -> dict[str, Any]:
    """TRL's ranking term per pair, batch loss and batch NLL of a trainer that makes logits into log-probs itself.

    The vocabulary is {0, 1} and every response token is 1. The prompt is one token, which has no prediction, so TRL's
    ORPO, whose NLL covers prompt and response, takes it over the response alone.
    """
    policy, length = tensors("policy"), INPUTS["length"]
    logps, mask = rows(torch.cat([policy["chosen"], policy["rejected"]]), length["chosen"] + length["rejected"])
    other = torch.log(-torch.expm1(logps.clamp(max=-1e-30)))  # log(1-p); the padding has p = 1
    logits = torch.stack([other, logps], dim=-1)
    logits = pad(logits, (0, 0, 0, 1))  # the last position predicts nothing
    labels = mask.masked_fill(mask == 0, IGNORED)
    pairs = len(length["chosen"])
    batch = {
        f"{branch}_{key}": value[:pairs] if branch == "chosen" else value[pairs:]
        for branch in ("chosen", "rejected")
        for key, value in (("labels", labels), ("input_ids", mask), ("attention_mask", mask))
    }
    made = bare(trainer, is_encoder_decoder=False, pad_token_id=0, padding_value=0, **settings)
    terms: list[Tensor] = []
    name = "odds_ratio_loss" if trainer is ORPOTrainer else "cpo_loss"
    method = getattr(made, name)

    def kept(*logps: Tensor) -> tuple[Tensor, ...]:
        result = method(*logps)
        terms.append(-result[0] if trainer is ORPOTrainer else result[0])  # TRL subtracts ORPO's term
        return result

    vars(made)[name] = kept
    loss, metrics = made.get_batch_loss_metrics(lambda *_, **__: SimpleNamespace(logits=logits), batch)
    return {
        "ranking": terms[0].tolist(),
        "batch_loss": loss.item(),
        "batch_nll": metrics["nll_loss"],
        **gradients(loss, policy),
    }


def gradients(loss: Tensor, policy: dict[str, Tensor]) -> dict[str, list[float]]:
    """Of TRL's loss with respect to the summed log-probs of each pair."""
    found = torch.autograd.grad(loss, [policy["chosen"], policy["rejected"]], allow_unused=True)
    zero = torch.zeros(len(INPUTS["length"]["chosen"]), dtype=torch.float64)
    names = ("gradient_chosen", "gradient_rejected")
    return {name: (zero if g is None else g).tolist() for name, g in zip(names, found, strict=True)}


def per_pair(loss_type: str, beta: float, **more: float | bool) -> dict[str, Any]:
    """One DPO-family loss, pair by pair, with the gradient of the batch mean."""
    pairs = range(len(INPUTS["length"]["chosen"]))
    return {
        "settings": {"loss_type": loss_type, "beta": beta, **more},
        "loss": [dpo(loss_type, beta, slice(i, i + 1), **more)[0].item() for i in pairs],
        **gradients(*dpo(loss_type, beta, slice(None), **more)),
    }


def of_batch(loss_types: str, beta: float) -> dict[str, Any]:
    """A DPO-family loss that is one number for the batch, with its gradient."""
    loss, policy = dpo(loss_types, beta, slice(None))
    return {"batch_loss": loss.item(), **gradients(loss, policy)}


def kto_per_response(**settings: float) -> dict[str, Any]:
    """KTO, response by response: TRL averages over responses, so a pair is the sum of its two."""
    pairs = range(len(INPUTS["length"]["chosen"]))
    recorded: dict[str, Any] = {"settings": settings}
    for branch in ("chosen", "rejected"):
        results = [kto(settings, branch, i) for i in pairs]
        recorded[f"loss_{branch}"] = [loss.item() for loss, _ in results]
        recorded[f"gradient_{branch}"] = [gradients(*r)[f"gradient_{branch}"][i] for i, r in enumerate(results)]
    return recorded


def recorded() -> dict[str, Any]:
    cpo = {"cpo_alpha": 1.0, "alpha": 0.0, "label_smoothing": 0.0}
    simpo = {"beta": 2.0, "simpo_gamma": 1.6}
    return {
        "versions": {name: version(name) for name in ("trl", "transformers", "torch")},
        "inputs": INPUTS,
        "dpo_sigmoid": per_pair("sigmoid", 0.1),
        "dpo_ipo": per_pair("ipo", 0.25),
        "dpo_hinge": per_pair("hinge", 0.1),
        "dpo_sft": of_batch("sft", 1.0),
        "dpo_sigmoid_and_sft": of_batch("sigmoid+sft", 0.1),
        "dpo_robust": per_pair("robust", 0.1, e=0.2),
        "dpo_exo_pair": per_pair("exo_pair", 0.1, e=0.05),
        "dpo_nca_pair": per_pair("nca_pair", 0.1),
        "dpo_apo_zero": per_pair("apo_zero", 0.1),
        "dpo_apo_down": per_pair("apo_down", 0.1),
        "dpo_ld": per_pair("sigmoid", 0.1, ld_alpha=0.25),
        "dpo_wpo": per_pair("sigmoid", 0.1, wpo=True),
        "cpo_sigmoid": {
            "settings": {"beta": 0.1, "cpo_alpha": 1.0},
            **reference_free(CPOTrainer, loss_type="sigmoid", beta=0.1, **cpo),
        },
        "cpo_smoothed": {
            "settings": {"beta": 0.1, "label_smoothing": 0.2},
            **reference_free(
                CPOTrainer, loss_type="sigmoid", beta=0.1, **(cpo | {"cpo_alpha": 0.0, "label_smoothing": 0.2})
            ),
        },
        "cpo_hinge": {
            "settings": {"beta": 0.1, "cpo_alpha": 1.0},
            **reference_free(CPOTrainer, loss_type="hinge", beta=0.1, **cpo),
        },
        "cpo_simpo": {
            "settings": simpo,
            **reference_free(CPOTrainer, loss_type="simpo", **simpo, **(cpo | {"cpo_alpha": 0.0})),
        },
        "orpo": {"settings": {"beta": 0.1}, **reference_free(ORPOTrainer, beta=0.1)},
        "kto": kto_per_response(beta=0.1, desirable_weight=1.5, undesirable_weight=0.5),
    }


if __name__ == "__main__":
    if version("trl") != TRL:
        raise SystemExit(f"this records TRL {TRL}, found {version('trl')}: pip install trl=={TRL}")
    values = recorded()
    assert all(math.isfinite(x) for entry in values.values() for v in entry.values() if isinstance(v, list) for x in v)
    path = Path(__file__).with_name("trl_losses.json")
    path.write_text(json.dumps(values, indent=1) + "\n")
