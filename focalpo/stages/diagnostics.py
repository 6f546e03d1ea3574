"""What training did to pairs beside their ranking: KL, entropy, displacement, CHES and calibration. numpy only.

    Change (arrays over pairs) --> numbers by name, without those that were not recorded

Nothing is sampled: every number is of the pairs' own answers. The KL that RLHF penalises, KL(policy || reference), is
an expectation over answers of the policy, which nobody scored; `kl_answers` is what these answers can tell of it.
"""

from dataclasses import dataclass

import numpy as np

from focalpo.stages.rankings import Change, right

BINS = 10
"""Of the confidence, from 0.5 to 1, all equally wide."""


def diagnostics(found: Change) -> dict[str, float]:
    """All diagnostics by the names of focalpo/stages/metrics.py; what was not recorded is left out."""
    tokens = found.chosen_length.sum(), found.rejected_length.sum()
    chosen = (found.end_chosen - found.start_chosen)[found.chosen_length > 0]
    rejected = (found.end_rejected - found.start_rejected)[found.rejected_length > 0]
    calibrated = calibration(found.reward_margin, found.mislabelled)
    values = {
        "kl_answers": kl_answers(found),
        "entropy_chosen": found.end_chosen_entropy.sum() / tokens[0],
        "entropy_rejected": found.end_rejected_entropy.sum() / tokens[1],
        "displaced": np.mean(chosen < 0),
        "change_chosen": chosen.mean(),
        "change_rejected": rejected.mean(),
        "ches": found.end_ches.mean(),
        "ches_per_token": found.end_ches_per_token.mean(),
        "brier": calibrated.brier,
        "calibration_error": calibrated.error,
    }
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def kl_answers(found: Change) -> float:
    """KL(answers || policy) - KL(answers || reference), nats per token: the mean of log ref - log pi over the tokens of
    chosen and rejected answers (Schulman's k1), with the policy at the start as the reference.

    Where the answers are samples of the reference the second term is 0, and this is KL(reference || policy); the best
    and the worst of several samples are so only roughly. It is below 0 where the policy came closer to the answers.
    """
    lost = found.start_chosen - found.end_chosen + found.start_rejected - found.end_rejected
    return float(lost.sum() / (found.chosen_length.sum() + found.rejected_length.sum()))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well sig(reward margin) predicts which answer of a pair is preferred.

    By bin of the confidence, which is max(p, 1 - p): its mean, the share of pairs ranked right, and the pairs. `error`
    is the expected calibration error, the mean over pairs of |confidence - share right| of their bin (Naeini et al.
    2015; Guo et al. 2017); `brier` is the mean of (p - 1)^2, with p of the answer that is truly preferred.
    """

    confidence: np.ndarray
    right: np.ndarray
    pairs: np.ndarray
    error: float
    brier: float


def calibration(margins: np.ndarray, mislabelled: np.ndarray) -> Calibration:
    """Calibration of reward margins [pairs] against the true labels where they are known, else the given ones.

    A margin of 0 is half right. NaN, for all pairs, if no margin was recorded.
    """
    true = np.where(mislabelled == True, -margins, margins)  # noqa: E712  # an array of True, False and None
    p = 1 / (1 + np.exp(-np.clip(true, -700, 700)))
    confidence, correct = np.maximum(p, 1 - p), right(true, 0.0)
    bins = np.clip(((np.nan_to_num(confidence, nan=0.5) - 0.5) * 2 * BINS).astype(int), 0, BINS - 1)
    pairs = np.bincount(bins, minlength=BINS)
    filled = pairs > 0
    means = [np.bincount(bins, each, BINS)[filled] / pairs[filled] for each in (confidence, correct)]
    error = np.sum(pairs[filled] * np.abs(means[0] - means[1])) / len(p)
    return Calibration(means[0], means[1], pairs[filled], float(error), float(np.mean((1 - p) ** 2)))
