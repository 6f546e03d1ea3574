"""The stage that compares a start model with the author's, before anything is trained."""

from focalpo.config.compose import plain
from focalpo.config.schema import Config
from focalpo.judging.protocol import EVAL
from focalpo.planning.slices import launch_slice, model_slice, threads_slice
from focalpo.stages.author_runs import author_runs
from focalpo.stages.folder import Stage, file_hash


def anchors_stage(config: Config) -> Stage | None:
    """The start model's log-probs on the author's evaluation rows; None for a model or data that the author had not.

    The cards name no lengths, so that all candidates are tried: those of the configuration do not matter.
    """
    data = config.data
    known = author_runs()
    if data.source != "hub" or data.limit or config.model.phases or config.model.package:
        return None
    name = known.anchor_of(config.model.path, data.path)
    if name is None:
        return None
    read = {key: getattr(data, key) for key in ("path", "revision", "test_split", "ignore_columns", "truncation")}
    return Stage(
        "anchors",
        name,
        settings={
            "model": model_slice(config),
            "data": read,
            "dtype": config.reference.dtype,
            "anchor": plain(known.anchors[name]) | {"name": name, "subset": known.subset},
            "verdicts": file_hash(EVAL / "verdicts.yaml"),
        }
        | threads_slice(config),
        launch=launch_slice(config) | {"micro_batch_tokens": config.reference.micro_batch_tokens},
    )
