"""Run lm-eval's tasks on a model through its Python API, and keep the score of every document.

model --load--> lm-eval's model --measured, a task at a time--> document scores, and lm-eval's own mean and error
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import yaml

from focalpo.checking.instructions import other_version
from focalpo.stages.origin import ROOT
from focalpo.stages.reading import first_line
from focalpo.stages.records import PromptScore
from focalpo.stages.suites import OWN, Task, lm_eval_version

SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Loading:
    """What lm-eval loads: a folder or hub id, the tokenizer's folder, the backend and how it computes."""

    path: str
    revision: str | None
    tokenizer: str
    backend: str
    dtype: str
    batch_size: int | str
    tensor_parallel: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A task's document scores, lm-eval's own mean and standard error in percent, and the data that were read."""

    scores: list[PromptScore]
    mean: float
    error: float | None
    data: list[str]


def load(loading: Loading) -> Any:
    """The model as lm-eval's own class for the backend loads it.

    Raises:
        ValueError: when lm-eval, or vLLM, cannot be used here.
    """
    if problem := other_version(lm_eval_version()):
        raise ValueError(problem)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # one line per document set and seed
    import torch
    from lm_eval.api.registry import get_model

    given: dict[str, Any] = {"pretrained": loading.path, "tokenizer": loading.tokenizer, "dtype": loading.dtype}
    given |= {"batch_size": loading.batch_size, "revision": loading.revision or "main"}
    if loading.backend == "vllm":
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a child would outlive a killed stage
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; not read where there is a GPU
        given |= {"tensor_parallel_size": loading.tensor_parallel, "disable_log_stats": True}
        # On a CPU, compilation would take longer than the tasks.
        given |= {"enforce_eager": not torch.cuda.is_available()}
    else:
        given |= {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    try:
        with patch("importlib.metadata.version", partial(_version, metadata.version)):
            return get_model(loading.backend)(**given)
    except ImportError as error:
        raise ValueError(
            f"{loading.backend} cannot be imported ({error}); install it or set generate.backend=hf"
        ) from None


def _version(real: Callable[[str], str], name: str) -> str:
    """The version of a package; of vllm-cpu where that is the vllm that is installed: lm-eval asks for vllm alone."""
    try:
        return real(name)
    except metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return f"{real('vllm-cpu').partition('+')[0]}+cpu"  # the suffix by which vLLM itself knows its kind


def measure(model: Any, task: Task, limit: int | None, chat_template: bool) -> Measured:
    """Run one task on a model that `load` returned.

    Raises:
        ValueError: when the task's data cannot be had, or lm-eval has no such task, metric or filter.
    """
    from lm_eval.evaluator import simple_evaluate

    with _explaining_data(task):
        spec = _spec(task)
        manager = task_manager(of_lm_eval=isinstance(spec, str))
        loaded = manager.load([spec])["tasks"].values() if task.dataset else ()
        found = simple_evaluate(
            model,
            tasks=[spec],
            num_fewshot=task.shots,
            limit=limit,
            task_manager=manager,
            apply_chat_template=chat_template,
        )
    assert found is not None, "one process, so lm-eval returns its results"
    key = f"{task.metric},{task.filter}"
    whole = found["results"][task.task]
    if key not in whole:
        known = ", ".join(name for name in whole if "," in name and "stderr" not in name)
        raise ValueError(f"eval/capability.yaml: {task.task} has no {key}; it has {known}")
    scores, own = [*_scores(found["samples"], task)], 100 * whole[key]
    if abs(own - 100 * fmean(score.points for score in scores)) > SAME:
        raise ValueError(f"lm-eval's {key} of {task.task} is no mean over documents; choose another metric")
    error = whole.get(f"{task.metric}_stderr,{task.filter}")
    spread = 100 * error if isinstance(error, float) else None  # "N/A" for a group with a part of one document
    return Measured(scores, own, spread, sorted(set(map(_source, loaded))))


@cache
def task_manager(of_lm_eval: bool) -> Any:
    """What lm-eval loads tasks by; reading the names of its own takes seconds, and tasks of ours do not need them."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=of_lm_eval)


def _spec(task: Task) -> str | dict:
    """The task's name; one of our own with the path of its file, which lm-eval reads from the working directory."""
    file = OWN / f"{task.task}.yaml"
    if not file.is_file():
        return task.task
    values = yaml.safe_load(file.read_text())
    files = values["dataset_kwargs"]["data_files"]
    files |= {split: str(ROOT / path) for split, path in files.items()}
    return values


def _scores(samples: dict[str, list[dict]], task: Task) -> Iterator[PromptScore]:
    for name, documents in samples.items():
        for each in documents:
            if each["filter"] == task.filter:
                yield PromptScore(f"{name}/{each['doc_id']}", float(each[task.metric]), 1.0)


def _source(task: Any) -> str:
    """Where a task's documents are from: a data set of the hub at the commit that is in the cache."""
    files = [Path(each["filename"]) for split in task.dataset.values() for each in split.cache_files]
    return f"{task.config.dataset_path}@{files[0].parent.name}"


@contextmanager
def _explaining_data(task: Task) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (OSError, HTTPError) as error:  # the base of datasets' errors for what is missing, private or not reachable
        remedy = "run once where the hub is reachable, or set HF_HOME to a cache that has it"
        raise ValueError(
            f"the data of {task.task} ({task.dataset}) cannot be had: {first_line(error)}; {remedy}"
        ) from error
    except KeyError as error:
        raise ValueError(f"lm-eval {lm_eval_version()} cannot run {task.task}: {first_line(error)}") from error
