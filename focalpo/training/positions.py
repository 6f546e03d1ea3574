"""How long a sequence the model may see: what its configuration says, read before any work."""

from transformers import AutoConfig, PretrainedConfig

from focalpo.training.model import ModelSource


def check_positions(source: ModelSource, max_length: int) -> None:
    """Check that sequences of `max_length` tokens fit the model.

    Raises:
        ValueError: when they are longer than its positions or its sliding window, or it cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot load the configuration of {source.path}: {reason}; check its name") from error
    longest, what = positions(config)
    if max_length > longest:
        raise ValueError(
            f"data.max_length={max_length} is more than the {longest} tokens that {source.path} can see ({what}); "
            f"lower it (data.max_length={longest})"
        )


def positions(config: PretrainedConfig) -> tuple[int, str]:
    """The longest sequence in tokens, and the setting that says so; packed attention knows no sliding window."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    limits = {"max_position_embeddings": getattr(text, "max_position_embeddings", None), "sliding_window": window}
    found = {name: limit for name, limit in limits.items() if limit is not None}
    name = min(found, key=lambda each: found[each], default="no limit")
    return found.get(name, 1 << 30), name
