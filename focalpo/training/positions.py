"""How long a sequence the model may see: what its configuration says, read before any work."""

from transformers import AutoConfig

from focalpo.training.model import ModelSource


def check_positions(source: ModelSource, max_length: int) -> None:
    """Check that sequences of `max_length` tokens fit the model.

    Raises:
        ValueError: when they are longer than its positions, or it cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot load the configuration of {source.path}: {reason}; check its name") from error
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and max_length > longest:
        raise ValueError(
            f"data.max_length={max_length} is more than the {longest} tokens that {source.path} can see "
            f"(max_position_embeddings); lower it (data.max_length={longest})"
        )
