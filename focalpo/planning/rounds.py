"""More than one round: pairs made again from the model that the last round trained.

    round 1    start model -> samples, rewards, pairs -> reference (the start model) -> train
    round k    round k - 1's model -> samples, rewards, pairs -> reference (the same model) -> train it further

The reference is the model that a round starts from, as in iterative DPO (Yuan et al. 2024, arXiv 2401.10020; Pang et
al. 2024, arXiv 2404.19733, whose iterations also use the same prompts). The prompts are the same in every round and
only the sampling seeds differ: what a row with more rounds gains then comes from answers made again, not from more
prompts, and no held-out prompt of one round is a training prompt of another.
"""

from dataclasses import replace

from focalpo.config.schema import Config
from focalpo.stages.folder import Stage

APART = 1000
"""Between the sampling seeds of two rounds."""


def before(config: Config) -> Config | None:
    """The configuration of the round before the last one; None in the first round."""
    return replace(config, rounds=config.rounds - 1) if config.rounds > 1 else None


def in_round(seed: int, config: Config) -> int:
    """A sampling seed of the first round, moved to the last round of the configuration."""
    return seed + APART * (config.rounds - 1)


def round_label(name: str, config: Config) -> str:
    """The name of a stage that every round has one of; in the first round it is what it is without rounds."""
    return name if config.rounds == 1 else f"{name}-round{config.rounds}"


def model_input(start: Stage | None) -> dict[str, Stage]:
    """The model that a round starts from, as the input of its stages; none where it is the hub's."""
    return {"model": start} if start else {}
