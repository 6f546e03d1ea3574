"""torch for the losses, imported when one is first evaluated: a command line reads only their names and options."""

from typing import Any

Tensor = Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # the import system asks every module for a __path__
        raise AttributeError(name)
    import torch

    return getattr(torch, name)


def logsigmoid(x: Any) -> Any:
    """torch.nn.functional.logsigmoid, which losses write by this name."""
    import torch

    return torch.nn.functional.logsigmoid(x)
