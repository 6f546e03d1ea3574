"""Diagnostics of training on held-out pairs: a table for each setting, reliability curves of the implicit reward."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from focalpo.reporting.argument import small_multiples
from focalpo.reporting.blocks import Block
from focalpo.reporting.figures import BLUE, GREY, ORANGE, save
from focalpo.scoring.calibration import spearman
from focalpo.stages.diagnostics import calibration, diagnostics
from focalpo.stages.metrics import NONE
from focalpo.stages.rankings import Change

NOT_RECORDED = "not recorded"
"""What a cell shows whose training was sealed before this number was written."""
HEADER = {
    "kl_answers": "change of KL, nats/token",
    "entropy_start": "entropy at start",
    "entropy_end": "at end",
    "displaced": "chosen fell, %",
    "change_chosen": "chosen, nats",
    "change_rejected": "rejected, nats",
    "ches_per_token": "CHES/token at start",
    "ches_predicts": "CHES against chosen",
    "brier": "Brier",
    "calibration_error": "ECE, %",
}
PERCENT = ("displaced", "calibration_error")
NOTE = (
    "Held-out pairs, means over seeds. Change of KL: KL(answers, policy) - KL(answers, reference), the mean of log ref "
    "- log pi over the tokens of both answers (k1), which is KL(reference, policy) as far as the answers are samples "
    "of the reference; it is not the KL under the policy. Entropy: of the next token at the answers' tokens, nats. "
    "Chosen fell: pairs whose chosen answer became less likely (likelihood displacement, Razin et al. 2024); then the "
    "mean changes of log-prob. CHES/token: the length-normalised score of the start model; against chosen: Spearman's "
    "correlation over pairs with the change of the chosen log-prob, negative where CHES predicts displacement. Brier "
    "and ECE (10 bins): sig(reward margin) as the probability that chosen is better, against the true labels where the "
    f'world knows them. "{NOT_RECORDED}": trained before this number was written; "{NONE}": the loss has no rewards '
    "here, or nothing moved."
)


def diagnostics_block(title: str, rows: Mapping[str, Sequence[Change]]) -> Block:
    """The diagnostics of a setting's trained rows, `rows[label]` with a Change per seed."""
    body = [[label, *_cells(found)] for label, found in rows.items()]
    return Block(title, list(HEADER.values()), body)


def _cells(found: Sequence[Change]) -> list[str]:
    seeds = [_numbers(change) for change in found]
    recorded = all("entropy_end" in seed for seed in seeds)
    cells = []
    for name in HEADER:
        values = [seed[name] for seed in seeds if name in seed]
        if len(values) < len(seeds):
            cells.append(NONE if recorded else NOT_RECORDED)
        else:
            cells.append(_text(name, float(np.mean(values))))
    return cells


def _numbers(found: Change) -> dict[str, float]:
    """The diagnostics of one seed, with those that compare the start with the end."""
    chosen = found.end_chosen - found.start_chosen
    tokens = found.chosen_length.sum() + found.rejected_length.sum()
    entropies = {
        "entropy_start": (found.start_chosen_entropy + found.start_rejected_entropy).sum() / tokens,
        "entropy_end": (found.end_chosen_entropy + found.end_rejected_entropy).sum() / tokens,
    }
    # CHES is about what training will do: it is the start's, not the end's as among the diagnostics
    ches = {"ches_per_token": found.start_ches_per_token.mean()}
    predicts = spearman(found.start_ches_per_token.tolist(), chosen.tolist())
    ches |= {"ches_predicts": np.nan if predicts is None else predicts}
    start = {name: float(value) for name, value in (entropies | ches).items() if not np.isnan(value)}
    return {name: value for name, value in diagnostics(found).items() if name != "ches_per_token"} | start


def _text(name: str, value: float) -> str:
    if name in PERCENT:
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name in ("brier", "kl_answers") or name.startswith("entropy") else f"{value:.2f}"


def has_margins(found: Sequence[Change]) -> bool:
    """Whether the reward margins of all pairs of all seeds were recorded."""
    return not any(np.isnan(change.reward_margin).any() for change in found)


def calibration_figure(changes: Mapping[str, Mapping[str, Sequence[Change]]], path: Path) -> None:
    """Plot reliability: the share of pairs ranked right against the confidence, pooled over seeds, of rows with reward
    margins, `changes[row][setting]`; the area of a dot is its share of pairs."""
    figure, panels = small_multiples(changes, same_heights=True)
    settings = list(dict.fromkeys(setting for found in changes.values() for setting in found))
    for (row, found), axes in zip(changes.items(), panels, strict=True):
        axes.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=0.8)
        for setting, seeds in found.items():
            margins, wrong = (np.concatenate([getattr(c, n) for c in seeds]) for n in ("reward_margin", "mislabelled"))
            curve, colour = calibration(margins, wrong), (BLUE, ORANGE)[settings.index(setting) % 2]
            axes.plot(curve.confidence, curve.right, color=colour, linewidth=1, label=setting)
            axes.scatter(curve.confidence, curve.right, 200 * curve.pairs / curve.pairs.sum(), colour, alpha=0.6)
        axes.set_title(row, fontsize=8)
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.tick_params(labelsize=7)
    figure.supxlabel("confidence of the implicit reward, max(p, 1 - p)", fontsize=8)
    figure.supylabel("share of pairs ranked right", fontsize=8)
    names = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(names.values()), list(names), loc="outside upper center", ncols=2, fontsize=8)
    save(figure, path)
