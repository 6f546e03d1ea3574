"""The stages in which the model answers the data's prompts and its answers are scored; the pairs are made of them."""

from focalpo.config.compose import plain
from focalpo.config.schema import Config
from focalpo.planning.code import prompts_code
from focalpo.planning.rounds import in_round, model_input, round_label
from focalpo.planning.slices import (
    backend_slice,
    generator_slice,
    launch_slice,
    prompts_slice,
    start_slice,
    threads_slice,
)
from focalpo.stages.folder import Stage
from focalpo.stages.suites import lm_eval_version


def sampled_slice(config: Config) -> dict:
    """What the model's own answers depend on where the stage of the pairs samples them."""
    if config.data.source != "pocket_instruct":
        return {}
    later = {"sampling_seed": in_round(config.data.seed, config)} if config.rounds > 1 else {}
    return backend_slice(config) | threads_slice(config) | later


def reward_stage(config: Config, start: Stage | None) -> Stage:
    """The model's own answers to the data's prompts, scored by a reward model or by the instructions they follow."""
    samples = sample_stage(config, start)
    if config.data.source == "on_policy":
        scorer = {"reward": plain(config.data.reward)} | threads_slice(config)
    else:
        scorer = {"checkers": lm_eval_version()}
    return Stage(
        "reward",
        samples.name,
        settings={"seeds": samples.settings["seeds"]} | scorer,
        inputs={"prompts": samples.inputs["prompts"], "samples": samples},
        launch=launch_slice(config) | {"batch_tokens": config.reference.micro_batch_tokens},
    )


def sample_stage(config: Config, start: Stage | None) -> Stage:
    """The model's own answers to the data's prompts, one per seed."""
    data, sampling = config.data, plain(config.data.sampling)
    return Stage(
        "sample",
        round_label(f"{config.model.name}-{data.name}", config),
        settings={
            "model": start_slice(config),
            "dtype": config.generate.dtype,
            "decoding": {name: value for name, value in sampling.items() if name != "seeds"},
            "seeds": [in_round(seed, config) for seed in sampling["seeds"]],
        }
        | backend_slice(config)
        | threads_slice(config),
        inputs=model_input(start)
        | {"prompts": Stage("prompts", data.name, settings=prompts_slice(config) | prompts_code(config))},
        launch=generator_slice(config),
    )
