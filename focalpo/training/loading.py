"""What transformers, its tokenizers and the hub raise when a folder or download is no model, in words for the user."""

import contextlib
import json
from collections.abc import Iterator

import httpx2
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from focalpo.stages.reading import first_line, os_remedy

REMEDIES: dict[type[Exception], str] = {
    GatedRepoError: "accept its licence on the hub, then `hf auth login`",
    RevisionNotFoundError: "correct the revision",
    RepositoryNotFoundError: "correct the id; a private one needs `hf auth login`",
    OfflineModeIsEnabled: "unset HF_HUB_OFFLINE, or download it on another machine",
    EntryNotFoundError: "check the id, or download it again",
    HfHubHTTPError: "check the network and the hub's status, then run again",
    httpx2.HTTPError: "check the network, then run again",
    SafetensorError: "a weights file is damaged or cut off; download it again",
    StrictDataclassError: "config.json has a value of the wrong kind; correct it or download it again",
    json.JSONDecodeError: "a JSON file of it is damaged; download it again",
    UnicodeDecodeError: "a text file of it is not UTF-8; download it again",
    KeyError: "its files do not fit together, download it again",
    TypeError: "its files do not fit together, download it again",
    ValueError: "check that it is a model of this kind",
    ImportError: "install what it needs",
    AttributeError: "its files do not fit together, download it again",
}
"""The first class that fits says what to do; in all of them the library's own first line says what happened."""
MISFIT = ("size mismatch", "ignore_mismatched_sizes", "loading state_dict")


@contextlib.contextmanager
def explaining_load(what: str) -> Iterator[None]:
    """Turn what is raised while `what` is loaded into one line for the user.

    Raises:
        ValueError: with the library's reason and a remedy. Errors of the machine, such as no memory, pass unchanged.
    """
    try:
        yield
    except tuple(REMEDIES) as error:
        remedy = next(words for kind, words in REMEDIES.items() if isinstance(error, kind))
        raise ValueError(f"cannot load {what}: {_reason(error)}; {remedy}") from error
    except OSError as error:
        remedy = "check the id, your access to the hub, and that the folder is complete"
        said = os_remedy(error) if error.errno else f"{_reason(error)}; {remedy}"
        raise ValueError(f"cannot load {what}: {said}") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in MISFIT):
            raise
        raise ValueError(f"cannot load {what}: its weights do not fit its config.json; download it again") from error
    except Exception as error:
        if type(error) is not Exception:  # this class itself is what the tokenizers library raises for its files
            raise
        raise ValueError(f"cannot load {what}: {_reason(error)}; its tokenizer.json is damaged, replace it") from error


def check_complete(what: str, missing: set[str]) -> None:
    """Check that every weight was in the files: transformers draws the missing ones at random, with a warning.

    Raises:
        ValueError: when one was not.
    """
    if missing:
        first = sorted(missing)[0]
        raise ValueError(f"{what} has no weights for {len(missing)} of its parameters ({first}, ...); use another")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__} {error}" if isinstance(error, KeyError) else first_line(error)
