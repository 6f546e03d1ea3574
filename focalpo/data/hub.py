"""Rows of a pinned hub dataset, or one line that says why there are none."""

import pyarrow as pa
import yaml

from focalpo.data.files import table_rows
from focalpo.stages.reading import first_line, os_remedy


def hub_rows(dataset: str, revision: str, split: str) -> list[dict]:
    """All rows of one split of a hub dataset at a commit or tag; for a local folder the revision is not checked.

    Raises:
        ValueError: when no revision is pinned, or the dataset, revision or split cannot be loaded.
    """
    if not revision or revision in ("main", "master") or revision.startswith("refs/"):
        raise ValueError(f"{dataset}: revision {revision!r} is not pinned; set a commit (40 hex digits) or a tag")
    # Imported here: `datasets` takes a second to import, and files do not need it.
    import datasets
    from huggingface_hub.errors import HTTPError  # alias of the HTTP library's error: httpx, or httpx2 from 2.4

    where = f"{dataset}@{revision[:12]} split {split}"
    try:
        builder = datasets.load_dataset_builder(dataset, revision=revision)
        check_revision(builder, dataset, revision)
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
        try:
            return rows.to_list()
        except UnicodeDecodeError:  # slower, but says where
            return table_rows(rows.with_format("arrow")[:], where)
    except (ConnectionError, HTTPError) as error:
        remedy = "run once where the hub is reachable (network, `hf auth login`), or set the path of a file instead"
        raise ValueError(f"{where}: {first_line(error)}; {remedy}") from error
    except FileNotFoundError as error:  # the base class of errors for missing, private and gated datasets and revisions
        remedy = "check network, name and revision; if it is gated or private, accept its terms and run `hf auth login`"
        raise ValueError(f"{where}: {first_line(error)}; {remedy}") from error
    except (datasets.exceptions.DatasetsError, pa.ArrowException) as error:
        raise ValueError(f"{where}: {first_line(error)}; a file is corrupt, delete it and run again") from error
    except OSError as error:
        raise ValueError(f"{where}: {os_remedy(error)} (the cache is {datasets.config.HF_DATASETS_CACHE})") from error
    except RuntimeError as error:  # a dataset that is a script, or a feature that was removed
        remedy = "convert it to parquet or JSON lines, and set the path of that file"
        raise ValueError(f"{where}: {first_line(error)}; {remedy}") from error
    except (
        yaml.YAMLError,
        KeyError,
        TypeError,
    ) as error:  # how the library meets a card or a dataset_info.json it does not know
        remedy = "its description cannot be read; set the path of one of its files instead"
        raise ValueError(f"{where}: {type(error).__name__} {first_line(error)}; {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {first_line(error)}") from error


def check_revision(builder: object, dataset: str, revision: str) -> None:
    """Reject any revision other than the pinned one.

    Without a network, `datasets` falls back to the revision that was cached last and only logs a line.

    Raises:
        ValueError: when the cache was used instead of the hub and holds another revision, or the pin is a tag, which
            the cache cannot confirm.
    """
    from datasets.packaged_modules.cache.cache import Cache

    if isinstance(builder, Cache) and builder.hash != revision:
        raise ValueError(
            f"the hub did not answer and the cache holds {dataset} at {builder.hash}; "
            "run once where the hub is reachable, or pin that commit if it is the one you need"
        )
