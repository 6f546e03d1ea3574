"""Display names: the table's columns, and every metric that training writes to metrics.jsonl and W&B.

A test fails for a metric that is missing here: add a line for it, and the report and the dashboard show it.
"""

from dataclasses import dataclass

COLUMNS = {"ae2_lc": "AlpacaEval LC", "ae2_wr": "AlpacaEval WR", "arena_hard": "Arena-Hard WR"}
NONE = "-"
"""What a table shows for a number that does not exist or is unknown."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The display title and chart panel of a metric; means are over the global batch."""

    title: str
    panel: str


METRICS = {
    "loss": Metric("loss", "Optimisation"),
    "reward_accuracy": Metric("reward accuracy", "Rewards"),
    "reward_margin": Metric("reward margin", "Rewards"),
    "reward_chosen": Metric("reward of chosen", "Rewards"),
    "reward_rejected": Metric("reward of rejected", "Rewards"),
    "logps_chosen": Metric("log-prob of chosen, nats", "Likelihood"),
    "logps_rejected": Metric("log-prob of rejected, nats", "Likelihood"),
    "ranking_accuracy": Metric("likelihood ranking accuracy", "Likelihood"),
    "learning_rate": Metric("learning rate", "Optimisation"),
    "grad_norm": Metric("gradient norm before clipping", "Optimisation"),
}


def title(name: str) -> str:
    """The metric's title, or its name if it is not listed here."""
    return METRICS[name].title if name in METRICS else name
