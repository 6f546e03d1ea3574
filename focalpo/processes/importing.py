"""Imports what a stage uses in less time."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import large libraries in this block, with the garbage collector paused.

    The collector would look through all that torch and transformers define, again and again, and find next to nothing:
    a seventh of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def skip_unused_imports() -> None:
    """Stop transformers from importing scikit-learn, pandas and scipy; call this before its models are imported.

    It uses them for a kind of speculative decoding and for vision models; they take a quarter of the time of importing
    what a training needs.
    """
    from transformers import utils

    utils.is_sklearn_available = utils.is_scipy_available = lambda: False
