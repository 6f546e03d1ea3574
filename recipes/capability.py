"""Run lm-eval's tasks on one model, one after another: the scores of their documents, a file per task.

A task whose files are complete is not run again, so that an interrupted stage goes on with the next one.
"""

import contextlib
from pathlib import Path
from typing import Any

from focalpo.checking.capability import Loading, Measured, load, measure
from focalpo.running.command import run_single
from focalpo.stages.folder import Job, write_json
from focalpo.stages.reading import read_json
from focalpo.stages.records import write_records
from focalpo.stages.suites import Task
from focalpo.training.jobs import source_of, unpinned
from focalpo.training.loading import explaining_load
from focalpo.training.model import load_tokenizer


def make(job: Job) -> dict:
    """Fill the job's folder with `<task>.parquet` (scores) and `<task>.json` (lm-eval's own result, written last)."""
    settings = job.settings
    left = {name: values for name, values in settings["tasks"].items() if not _complete(job.path, name)}
    with (job.path / "log.txt").open("a") as log, contextlib.redirect_stderr(log):  # lm-eval's progress
        model = _loaded(job) if left else None
        for name, values in left.items():
            task = Task(label=name, **{key: value for key, value in values.items() if key != "files"})
            _keep(job.path, name, measure(model, task, settings["limit"], settings["chat_template"]))
    results = {name: read_json(job.path / f"{name}.json", "delete it and run again") for name in settings["tasks"]}
    return {"tasks": results, "warnings": unpinned(source_of(job))}


def _complete(folder: Path, name: str) -> bool:
    return all((folder / f"{name}.{kind}").is_file() for kind in ("json", "parquet"))


def _loaded(job: Job) -> Any:
    settings, source = job.settings, source_of(job)
    tokenizer = job.path / ".tokenizer"  # with the chat template that training and generation share
    load_tokenizer(source).save_pretrained(tokenizer)
    loading = Loading(
        source.path,
        source.revision,
        str(tokenizer),
        settings["backend"],
        settings["dtype"],
        settings.get("batch_size", "auto"),
        job.launch["tensor_parallel"],
    )
    with explaining_load(source.path):
        return load(loading)


def _keep(folder: Path, name: str, found: Measured) -> None:
    """Write a task's files; the one that says it is complete comes last."""
    write_records(folder / f"{name}.parquet", found.scores)
    result = {"documents": len(found.scores), "mean": found.mean, "stderr": found.error, "data": found.data}
    write_json(folder / f"{name}.json", result)


if __name__ == "__main__":
    run_single("capability")
