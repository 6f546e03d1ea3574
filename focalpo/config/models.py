"""Checks of the model's part of a configuration: exactly one start, and the phases that train an architecture."""

from collections.abc import Iterator

from focalpo.config.schema import Config

STARTS = {"path": "on the hub, or a folder", "package": "converted", "architecture": "trained here"}
TOKENIZERS = ("pocket", "bpe")
DEMONSTRATIONS = ("chosen", "pocket_pretraining", "pocket_demonstrations")
HAVE_CHOSEN = ("file", "unpaired", "hub", "pocket_base")
"""Sources of pairs that do not themselves need the model which the phase trains."""


def model_problems(config: Config) -> Iterator[str]:
    """Every mistake in what the model starts from and in the phases that train it, each with its remedy."""
    model = config.model
    given = [f"model.{name}" for name in STARTS if getattr(model, name) is not None]
    if not given:
        choices = ", ".join(f"model.{name} ({what})" for name, what in STARTS.items())
        yield f"there is no model to start from; set one of {choices}"
    if len(given) > 1:
        yield f"{' and '.join(given)} are set, and a model has one start; set the others to null"
    if model.architecture is None and model.package is None and model.phases:
        removed = " ".join(f"'~model.phases.{name}'" for name in model.phases)
        phases = ", ".join(model.phases)
        yield f"model.phases ({phases}) train model.architecture, which is null; remove them by {removed}"
    if model.architecture is not None:
        if not model.phases:
            yield "model.architecture is trained by model.phases, of which there are none; choose model=from_scratch"
        if config.data.max_length > (longest := model.architecture.max_position_embeddings):
            yield (
                f"data.max_length={config.data.max_length} is more than the {longest} positions of model.architecture; "
                "lower it or raise model.architecture.max_position_embeddings"
            )
        if model.tokenizer not in TOKENIZERS:
            yield f"model.tokenizer={model.tokenizer!r} is not one of {', '.join(TOKENIZERS)}"
    for name in model.phases:
        yield from (f"model.phases.{name}.{problem}" for problem in _phase_problems(config, name))


def _phase_problems(config: Config, name: str) -> Iterator[str]:
    phase = config.model.phases[name]
    yield from phase.train.problems()
    yield from phase.train.problems_with(config.launch.ranks)
    if phase.count < 1:
        yield f"count={phase.count} must be >= 1"
    if phase.demonstrations not in DEMONSTRATIONS:
        yield f"demonstrations={phase.demonstrations!r} is not one of {', '.join(DEMONSTRATIONS)}"
    if phase.demonstrations == "chosen" and config.data.source not in HAVE_CHOSEN:
        source = config.data.source
        yield f"demonstrations=chosen: data.source={source} samples its answers from the model; choose another data="
