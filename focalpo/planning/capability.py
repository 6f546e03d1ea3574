"""The stage that runs lm-eval's tasks on a model."""

from focalpo.config.compose import plain
from focalpo.config.schema import CapabilityConfig, Config
from focalpo.planning.slices import model_slice, threads_slice
from focalpo.stages.folder import Stage
from focalpo.stages.suites import lm_eval_version, own_files, suites


def capability_stage(config: Config, label: str, model: Stage | None) -> Stage:
    """The scores of the model of a stage, or of the hub's, on the tasks of the configuration's suite."""
    return Stage(
        "capability",
        label,
        settings={"model": model_slice(config, from_hub=model is None), "dtype": config.generate.dtype}
        | _suite(config.capability, config.generate.backend)
        | threads_slice(config),
        inputs={"model": model} if model else {},
        launch={"tensor_parallel": config.generate.tensor_parallel, "track": plain(config.track)},
    )


def _suite(asked: CapabilityConfig, backend: str) -> dict:
    """What scores depend on: tasks, version, rendering and backend. A column's label is no part of it, nor is the batch
    with vLLM, which schedules documents by itself."""
    assert asked.suite is not None, "a row without a suite has no such stage"
    tasks = {}
    for name, task in suites()[asked.suite].items():
        tasks[name] = {key: value for key, value in plain(task).items() if key != "label"} | {"files": own_files(task)}
    common = {"chat_template": asked.chat_template, "limit": asked.limit, "backend": backend}
    batch = {"batch_size": asked.batch_size} if backend == "hf" else {}
    return {"tasks": tasks, "lm_eval": lm_eval_version()} | common | batch
