"""What a rehearsal changes: the keys of the rows' configurations and of the protocols that differ from the paper's,
and what its stand-ins are instead of the originals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from focalpo.config.compose import plain
from focalpo.config.schema import Config
from focalpo.judging.protocol import EVAL
from rehearsal.datasets import TEST, TRAIN
from rehearsal.models import GAIN, SHAPE

HARDWARE = ("launch.gpus", "launch.ranks", "launch.workers", "generate.data_parallel")
ENDPOINTS = (
    *("judge.endpoint.base_url", "judge.benchmarks.alpaca_eval", "judge.benchmarks.arena_hard"),
    *("check.benchmarks.ifeval", "runs"),
)
STAND_INS = ("judge.sentinel", "reference.must_fit")
"""What the stand-ins for judge and models cannot do: judge plain English, and have a real model's log-probs."""
PROTOCOL = ("prompts", "kinds", "files.*.sha256")
"""What a stand-in cannot keep of a protocol: its prompts' number and kinds, and the hashes of its files."""

Change = tuple[Any, Any]


def hardware(config: Config) -> list[str]:
    """Overrides for two cores and no GPU: at most two ranks, two stages at once, one engine each."""
    ranks = min(2, config.launch.ranks)
    return ["launch.gpus=0", f"launch.ranks={ranks}", "launch.workers=2", "generate.data_parallel=1"]


def changes(paper: Mapping[Any, Config], rehearsed: Mapping[Any, Config]) -> dict[str, set[Change]]:
    """Keys that differ in any row, with the pairs of values (paper's, rehearsal's) that occur."""
    found: dict[str, set[Change]] = {}
    for place, config in paper.items():
        before, after = flat(plain(config)), flat(plain(rehearsed[place]))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                found.setdefault(key, set()).add((before.get(key), after.get(key)))
    return found


def protocol_changes(name: str, folder: Path) -> dict[str, Change]:
    """Keys in which the rehearsal's protocol differs from the one in eval/."""
    before, after = (flat(yaml.safe_load((place / f"{name}.yaml").read_text())) for place in (EVAL, folder))
    return {key: (before.get(key), after.get(key)) for key in before | after if before.get(key) != after.get(key)}


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted keys."""
    if not isinstance(values, dict) or not values:
        return {prefix: tuple(values) if isinstance(values, list) else values}
    return {key: leaf for name, value in values.items() for key, leaf in flat(value, _dotted(prefix, name)).items()}


def described(found: Mapping[str, set[Change]]) -> str:
    """Format the changes for the terminal, one line per key."""
    lines = []
    for key, values in found.items():
        kinds = {"hardware": HARDWARE, "endpoint": ENDPOINTS, "stand-in": STAND_INS}
        kind = next((name for name, keys in kinds.items() if key in keys), "OTHER")
        pairs = ", ".join(f"{before} -> {after}" for before, after in sorted(values, key=str))
        lines.append(f"  {kind:9} {key:32} {pairs}")
    return "\n".join(lines)


def stand_ins() -> str:
    """Format what stands in for models and data, one line each."""
    shape = f"{SHAPE['num_hidden_layers']} random layers of width {SHAPE['hidden_size']}"
    return (
        f"  stand-in  models   {shape} in a unit of weight {GAIN:.0f} times smaller, alike for all rows: "
        f"learning rates act {GAIN:.0f} times as strongly\n"
        f"  stand-in  data     {TRAIN} training and {TEST} test pairs"
    )


def _dotted(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)
