"""Which code a stage's key depends on: the objective's class, the pocket world, and what turns replies into verdicts.

The rest of the code (the training loop, decoding, parsers of data) is meant to be the same for every outcome. It is not
part of the key: a change there must not train everything again. Its hash is in the manifest, and who runs the table
again is reported where it differs (focalpo/running/remade.py).
"""

from focalpo.config.schema import Config
from focalpo.judging.protocol import EVAL, AlpacaProtocol, load_protocol
from focalpo.stages.code import code_of
from focalpo.stages.suites import lm_eval_version
from focalpo.training.objective import OBJECTIVES

POCKET = ("focalpo.pocket",)
DATASETS, BENCHMARKS = "focalpo.pocket.datasets", "focalpo.pocket.benchmarks"
DEMONSTRATIONS = {
    "pocket_pretraining": f"{DATASETS}:pretraining_demonstrations",
    "pocket_demonstrations": f"{DATASETS}:sft_demonstrations",
}
PAIRS = {
    "pocket_base": [f"{DATASETS}:base_pairs"],
    "pocket_instruct": [f"{DATASETS}:preference_tasks", f"{DATASETS}:as_messages", f"{DATASETS}:rate_samples"],
}
# How replies travel, are paid for and are kept: none of it changes a verdict.
TRANSPORT = tuple(
    f"focalpo.judging.{name}"
    for name in (
        *(
            "endpoint",
            "batching",
            "pacing",
            "keys",
            "replies",
            "recording",
            "price",
            "serving",
            "identity",
            "earlier",
            "protocol",
        ),
    )
)
DUELS = tuple(f"focalpo.judging.duels:{name}" for name in ("pairs_of", "task_of", "games_of"))
RANGES = ("focalpo.stages.ranges",)  # they refuse values, and change no outcome of those that are let through
NUMBERS = (
    "focalpo.reporting.cells:setting_rows",
    "focalpo.reporting.cells:holm_corrected",
    "focalpo.reporting.verdicts:with_verdicts",
)


def objective_code(name: str) -> str:
    """The code of a loss: its class, its bases, and whatever of the project or the user's modules they use."""
    cls = OBJECTIVES[name]
    classes = tuple(f"{each.__module__}:{each.__name__}" for each in cls.__mro__ if each is not object)
    return code_of(classes, apart=RANGES)


def demonstrations_code(config: Config, demonstrations: str) -> str:
    """The code of supervised fine-tuning: its loss, and the pocket world where the demonstrations are from there."""
    tokenizer = ["focalpo.pocket.tokenizer:build_tokenizer"] if config.model.tokenizer == "pocket" else []
    made = pocket_pairs(config) if demonstrations == "chosen" else []
    if demonstrations in DEMONSTRATIONS:
        made = [DEMONSTRATIONS[demonstrations], f"{BENCHMARKS}:benchmark_prompts"]
    return code_of(
        ("focalpo.training.objective.imitation:SFT", *tokenizer, *made), (*POCKET, "focalpo.training.objective")
    )


def pairs_code(config: Config) -> dict[str, str]:
    """The code of the world that pairs are from, as a setting; none for pairs that are read."""
    roots = pocket_pairs(config)
    return {"code": code_of(tuple(roots), POCKET)} if roots else {}


def prompts_code(config: Config) -> dict[str, str]:
    """The code that draws our own prompts, and the lm-eval that says which kinds exclude each other; else nothing."""
    if config.data.source != "instructions":
        return {}
    prompts = "focalpo.checking.prompts"
    return {"code": code_of((f"{prompts}:drawn",), (prompts,)), "lm_eval": lm_eval_version()}


def pocket_pairs(config: Config) -> list[str]:
    found = PAIRS.get(config.data.source, [])
    if found and config.data.noise_on == "hard":
        found = [*found, f"{DATASETS}:hard_labels"]
    return [*found, f"{BENCHMARKS}:benchmark_prompts"] if found else []


def reward_code(config: Config) -> dict[str, str]:
    """What computes the reward that labels pairs: the pocket world, or lm-eval's checkers; nothing for other pairs."""
    if config.data.source in PAIRS:
        return {"code": code_of(("focalpo.pocket.world:gold_reward",), POCKET)}
    return {"checkers": lm_eval_version()} if config.data.source == "instructions" else {}


def benchmark_code(protocol: str) -> dict[str, str]:
    """The code of the world that a benchmark is from, as a setting; none for a published one."""
    pocket = load_protocol(EVAL / f"{protocol}.yaml").source == "pocket"
    return {"code": code_of((f"{BENCHMARKS}:write_benchmark",), POCKET)} if pocket else {}


def judge_code(config: Config) -> str:
    """The code that asks for verdicts and reads them, and that of the pocket judge where it is the judge."""
    return code_of(_verdicts(config), ("focalpo.judging", *POCKET), TRANSPORT)


def duel_code(config: Config) -> str:
    """As `judge_code`, with the code that makes a task of two rows' answers, and games of the verdicts."""
    return code_of((*_verdicts(config), *DUELS), ("focalpo.judging", *POCKET), TRANSPORT)


def _verdicts(config: Config) -> tuple[str, ...]:
    protocols = [load_protocol(EVAL / f"{name}.yaml") for name in config.judge.benchmarks.values()]
    kinds = {
        "alpaca_eval:judge_alpaca" if isinstance(p, AlpacaProtocol) else "arena_hard:judge_arena" for p in protocols
    }
    roots = [f"focalpo.judging.{kind}" for kind in sorted(kinds)]
    if any(protocol.source == "pocket" for protocol in protocols):
        roots.append("focalpo.pocket.world:is_correct")
    if (config.judge.endpoint.base_url or "").split(" ")[0] == "pocket":
        roots.append("focalpo.pocket.judge:complete")
    return tuple(roots)


def duels_code() -> str:
    """The code that computes the numbers of duels from their games."""
    return code_of(("focalpo.reporting.duels:results_of",), ("focalpo.reporting", "focalpo.scoring"))


def check_code() -> str:
    """The code that has answers checked, beside lm-eval's own, of which the protocol names the version."""
    return code_of(("focalpo.checking.instructions:followed",), ("focalpo.checking",))


def report_code() -> str:
    """The code that computes a report's numbers from verdicts."""
    return code_of(NUMBERS, ("focalpo.reporting", "focalpo.scoring"))
