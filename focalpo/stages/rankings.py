"""What training changed in each pair: reward margin, rankings, and the four groups of right and wrong at start and end.

    states at step 0 and at the end --> Change (arrays over pairs) --> shares

"Ranked right" is the likelihood ranking of Chen et al. 2024 (arXiv 2405.19534), not reward accuracy (their Remark 2.5):
pi(chosen) > pi(rejected), by summed or by per-token log-prob. Their Def. 2.3 says >=, so that a policy that tells no
pair apart is right about all of them; here a tie is half right, as in the Mann-Whitney statistic. numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalpo.stages.records import PairState


def right(better: Any, worse: Any) -> Any:
    """1 where `better` > `worse`, 0.5 where they tie, 0 elsewhere (also for NaN); numbers, arrays or tensors alike.

    Every rate of right pairs is a mean of this, so that a policy equal to its reference has the reward accuracy 0.5.
    """
    return 0.5 * (better > worse) + 0.5 * (better >= worse)


@dataclass(frozen=True, slots=True)
class Change:
    """The same pairs at the start and end of training, as arrays `[pairs]`; logps in nats, summed over the response.

    `ids` are in their order. From `start_chosen_entropy` on, what may not have been recorded and is NaN then (see
    `PairState`).
    """

    ids: Sequence[str]
    start_chosen: np.ndarray
    start_rejected: np.ndarray
    end_chosen: np.ndarray
    end_rejected: np.ndarray
    chosen_length: np.ndarray
    rejected_length: np.ndarray
    mislabelled: np.ndarray
    start_chosen_entropy: np.ndarray
    start_rejected_entropy: np.ndarray
    end_chosen_entropy: np.ndarray
    end_rejected_entropy: np.ndarray
    start_ches: np.ndarray
    start_ches_per_token: np.ndarray
    end_ches: np.ndarray
    end_ches_per_token: np.ndarray
    reward_margin: np.ndarray

    @property
    def unpaired(self) -> bool:
        """Whether these are single answers: each is chosen or rejected, and the other side has no tokens."""
        return bool((self.chosen_length == 0).any() or (self.rejected_length == 0).any())

    @property
    def margin(self) -> np.ndarray:
        """D = log pi/ref(chosen) - log pi/ref(rejected), `[pairs]`; no beta, the reference is the policy at start."""
        return (self.end_chosen - self.start_chosen) - (self.end_rejected - self.start_rejected)

    def ranked_right(self, when: str, per_token: bool = False) -> np.ndarray:
        """1 for each pair ranked right at "start" or "end", 0.5 for a tie, 0 for one ranked wrong. `[pairs]`."""
        chosen, rejected = (getattr(self, f"{when}_{side}") for side in ("chosen", "rejected"))
        if per_token:
            chosen, rejected = chosen / self.chosen_length, rejected / self.rejected_length
        return right(chosen, rejected)


def change(states: Sequence[PairState], split: str) -> Change:
    """The pairs of a split at their first and last recorded step."""
    selected = [state for state in states if state.split == split]
    steps = [state.step for state in selected]
    start = {state.id: state for state in selected if state.step == min(steps)}
    end = {state.id: state for state in selected if state.step == max(steps)}
    ids = sorted(start.keys() & end.keys())

    def column(table: dict[str, PairState], name: str) -> np.ndarray:
        return np.array([getattr(table[id_], name) for id_ in ids])

    def recorded(table: dict[str, PairState], name: str) -> np.ndarray:
        return column(table, name).astype(float)  # NaN for None

    columns = {
        f"{when}_{name}": recorded(states_then, name)
        for when, states_then in (("start", start), ("end", end))
        for name in ("chosen", "rejected", "chosen_entropy", "rejected_entropy", "ches", "ches_per_token")
    }
    return Change(
        ids,
        chosen_length=column(start, "chosen_length"),
        rejected_length=column(start, "rejected_length"),
        mislabelled=column(start, "mislabelled"),
        reward_margin=recorded(end, "reward_margin"),
        **columns,
    )


def moves(found: Change, per_token: bool = False) -> dict[str, np.ndarray]:
    """How much of each pair is ranked right or wrong at start and end, such as `right_wrong`, `[pairs]`; they sum to 1.

    A tie is half right and half wrong, and a pair that stays tied moves neither way.
    """
    before, after = found.ranked_right("start", per_token), found.ranked_right("end", per_token)
    both = np.minimum(before, after)
    return {
        "right_right": both,
        "right_wrong": before - both,
        "wrong_right": after - both,
        "wrong_wrong": 1 - np.maximum(before, after),
    }


def groups(found: Change, per_token: bool = False) -> dict[str, float]:
    """Fractions of the pairs by their `moves`; they sum to 1."""
    return {name: float(np.mean(share)) for name, share in moves(found, per_token).items()}


def accuracies(found: Change) -> dict[str, float]:
    """Reward accuracy, mean margin, and ranking accuracy at start and end by sum and per token; ties count half.

    `pairs` are compared; `ties` is the share of them with the margin 0: all, when training changed nothing. Of single
    answers every desirable one is compared with every undesirable one, and no ranking by log-probs, whose prompts
    differ.
    """
    if found.unpaired:
        return _unpaired_accuracies(found)
    return {
        "pairs": len(found.margin),
        "reward_accuracy": float(np.mean(right(found.margin, 0.0))),
        "ties": float(np.mean(found.margin == 0)),
        "ranking_accuracy_start": float(np.mean(found.ranked_right("start"))),
        "ranking_accuracy_end": float(np.mean(found.ranked_right("end"))),
        "ranking_accuracy_per_token_start": float(np.mean(found.ranked_right("start", per_token=True))),
        "ranking_accuracy_per_token_end": float(np.mean(found.ranked_right("end", per_token=True))),
        "margin": float(np.mean(found.margin)),
    }


def _unpaired_accuracies(found: Change) -> dict[str, float]:
    desirable = found.chosen_length > 0
    if desirable.all() or not desirable.any():  # some of a file that is sorted by label: nothing to compare
        return {"pairs": 0}
    better = (found.end_chosen - found.start_chosen)[desirable]
    worse = np.sort((found.end_rejected - found.start_rejected)[~desirable])
    below, up_to = (np.searchsorted(worse, better, side) for side in ("left", "right"))
    return {
        "pairs": len(better) * len(worse),
        "reward_accuracy": float(np.mean(below + up_to) / 2 / len(worse)),
        "ties": float(np.mean(up_to - below) / len(worse)),
        "margin": float(better.mean() - worse.mean()),
    }
