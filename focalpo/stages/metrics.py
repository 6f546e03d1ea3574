"""Display names: the table's columns, and every metric that training writes to metrics.jsonl and W&B.

A test fails for a metric that is missing here: add a line for it, and the report and the dashboard show it.
"""

from dataclasses import dataclass

from focalpo.stages.suites import suites

NONE = "-"
"""What a table shows for a number that does not exist or is unknown."""
SCORED = ("judge", "check", "capability")
"""Kinds of stages that score a row's completions, or its model."""


@dataclass(frozen=True, slots=True)
class Column:
    """A score of the table: its title, its header where there is little room, and where its numbers are from.

    `stage` is the kind of stage that scores it, `source` the set of completions, or the task, that is scored.
    """

    name: str
    title: str
    header: str
    short: str
    stage: str
    source: str


COLUMNS = {
    "ae2_lc": Column("ae2_lc", "AlpacaEval LC", "AE2 LC", "LC", "judge", "alpaca_eval"),
    "ae2_wr": Column("ae2_wr", "AlpacaEval WR", "AE2 WR", "WR", "judge", "alpaca_eval"),
    "arena_hard": Column("arena_hard", "Arena-Hard WR", "Arena-Hard", "AH", "judge", "arena_hard"),
}
ARENA_TWO = {
    "hard_prompt": Column("hard_prompt", "Arena-Hard v2.0 hard", "AH2 hard", "AH2h", "judge", "arena_hard"),
    "hard_prompt_equal_style": Column(
        "hard_prompt_equal_style", "Arena-Hard v2.0 hard, equal style", "AH2 equal", "AH2e", "judge", "arena_hard"
    ),
    "creative_writing": Column(
        "creative_writing", "Arena-Hard v2.0 creative", "AH2 creative", "AH2c", "judge", "arena_hard"
    ),
}
"""Columns of v2.0's categories, which replace that of Arena-Hard."""
LEVELS = {"prompt": "prompt", "instruction": "instr"}
"""Of a set that is checked by code, with their short names."""
LOOSE = "_loose"
EXTRAS = {
    "arena_styled": "hard prompts at the table's mean style (the authors' number)",
    "greedy_success": "greedy success %",
    "tokens": "tokens",
    "unfinished": "unfinished %",
    "repetitive": "repetitive %",
}
"""Titles of the numbers beside the scores: means over runs, without intervals."""


def column_of(name: str) -> Column:
    """The column of a score by name: a judged one, a task of lm-eval's, or `SET_prompt` and `SET_instruction` of a set
    checked by code.

    Raises:
        ValueError: for a name that is none of them.
    """
    if name in COLUMNS or name in ARENA_TWO:
        return (COLUMNS | ARENA_TWO)[name]
    if task := next((tasks[name] for tasks in suites().values() if name in tasks), None):
        return Column(name, task.label, task.label, task.label, "capability", name)
    checked, _, level = name.rpartition("_")
    if not checked or level not in LEVELS:
        raise ValueError(f"{name!r} is no column of a table; correct the name")
    words, few = set_title(checked), "IF" if checked == "ifeval" else _rest(checked)
    between = " " if checked == "ifeval" else ", "
    short = f"{few} {LEVELS[level]}"
    return Column(name, f"{words}{between}{level}", short, short, "check", checked)


def extra_title(name: str) -> str:
    """The title of a number beside the scores."""
    return EXTRAS.get(name) or f"{column_of(name.removesuffix(LOOSE)).title}, loose %"


def is_extra(name: str) -> bool:
    """Whether a number stands beside the scores."""
    return name in EXTRAS or name.endswith(LOOSE)


def set_title(checked: str) -> str:
    """A set of completions that is checked by code, in words: ifeval_new has kinds that were never trained on."""
    words = {"ifeval": "IFEval", "ifeval_new": "new kinds"}
    return words.get(checked) or _rest(checked)


def _rest(checked: str) -> str:
    return checked.removeprefix("ifeval_").replace("_", " ")


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
DIAGNOSTICS = {
    "kl_answers": Metric("KL(answers, policy) - KL(answers, reference), nats per token", "Held-out pairs"),
    "entropy_chosen": Metric("entropy at chosen, nats per token", "Held-out pairs"),
    "entropy_rejected": Metric("entropy at rejected, nats per token", "Held-out pairs"),
    "displaced": Metric("share whose chosen became less likely", "Held-out pairs"),
    "change_chosen": Metric("change of log-prob of chosen, nats", "Held-out pairs"),
    "change_rejected": Metric("change of log-prob of rejected, nats", "Held-out pairs"),
    "ches": Metric("CHES score", "Held-out pairs"),
    "ches_per_token": Metric("CHES score, length-normalised", "Held-out pairs"),
    "brier": Metric("Brier score of sig(reward margin)", "Held-out pairs"),
    "calibration_error": Metric("expected calibration error of sig(reward margin)", "Held-out pairs"),
}
"""Of the evaluations on held-out pairs, which evaluation.jsonl holds by these names and W&B with `eval_` before them
(focalpo/stages/diagnostics.py)."""


def title(name: str) -> str:
    """The metric's title, or its name if it is not listed here."""
    return METRICS[name].title if name in METRICS else name
