"""Every loss once more, in plain floats and from its formula; a new loss gets its twin here, about five lines."""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from focalpo.training.objective import OBJECTIVES, Logps
from tests.logps import BRANCHES


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
