"""The stand-ins of a run; all names and revisions are read from the configurations themselves.

configurations --every hub id, revision, protocol--> repositories on disk --> environment and overrides of the run
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from focalpo.config.schema import Config
from focalpo.planning.slices import benchmarks
from focalpo.stages.suites import suites
from rehearsal.benchmarks import protocol_over, repository_of
from rehearsal.capability import write_capability
from rehearsal.datasets import texts, write_armorm, write_h4, write_trl_lib
from rehearsal.hub import Hub, Repository
from rehearsal.models import write_model, write_reward_model

START_SECONDS = 30
# The model that a setting starts from determines the family of its checkpoints; no name is parsed for it.
FAMILIES = {
    "HuggingFaceH4/mistral-7b-sft-beta": "mistral",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama3",
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2",
    "Qwen/Qwen2.5-1.5B-Instruct": "qwen2",
}
DATASETS = {
    "trl-lib/ultrafeedback_binarized": write_trl_lib,
    "HuggingFaceH4/ultrafeedback_binarized": write_h4,
    "princeton-nlp/llama3-ultrafeedback-armorm": write_armorm,
    "princeton-nlp/llama3-ultrafeedback": write_armorm,
}


def build(configs: Mapping[tuple[str, str], Config], starts: Mapping[str, str], root: Path) -> list[Repository]:
    """Write afresh every repository that the configurations of (setting, row) name, and return them.

    `starts[setting]` is the model that a setting starts from.
    """
    shutil.rmtree(root, ignore_errors=True)
    found: dict[tuple[str, str], Repository] = {}
    words = texts()
    for (setting, _), config in configs.items():
        for repository, write in wanted(config, FAMILIES[starts[setting]], words, root):
            if (repository.kind, repository.name) not in found:
                found[repository.kind, repository.name] = repository
                write(repository.folder)
    names = {name for config in configs.values() for name in benchmarks(config).values()}
    return [*found.values(), *(repository_of(name, root) for name in sorted(names))]


def wanted(config: Config, family: str, words: list[str], root: Path) -> Iterator[tuple[Repository, Callable]]:
    """The repositories that one configuration names, each with the function that writes it."""
    model, data = config.model, config.data
    yield _repository(root, "models", model.path, model.revision), partial(write_model, family, words)
    yield _repository(root, "datasets", data.path, data.revision), DATASETS[str(data.path)]
    if data.source == "on_policy":
        yield _repository(root, "models", data.reward.path, data.reward.revision), partial(write_reward_model, words)
    if config.capability.suite is not None:
        for name in {task.dataset for task in suites()[config.capability.suite].values() if task.dataset}:
            yield _repository(root, "datasets", name, None), partial(write_capability, name, words)


def _repository(root: Path, kind: str, name: str | None, revision: str | None) -> Repository:
    assert name is not None, "a model or data set without a hub id cannot be rehearsed"
    return Repository(kind, name, revision, root / kind / name)


def endpoints(config: Config, repositories: Iterable[Repository], protocols: Path, judge: str) -> list[str]:
    """Overrides for the judge's address, and for protocols over the stand-in's files instead of the published ones."""
    by_source = {repository.name: repository for repository in repositories}
    overrides = [
        f"judge.endpoint.base_url={judge}",
        *(["judge.sentinel=sentinel_pocket"] if config.judge.sentinel else []),
    ]
    for role, name in benchmarks(config).items():
        key = "check" if role in config.check.benchmarks else "judge"
        path = protocol_over(name, by_source, protocols)
        overrides.append(f"{key}.benchmarks.{role}={path.with_suffix('')}")
    return overrides


def environment(hub: Hub, home: Path, key: str | None) -> dict[str, str]:
    """The environment of the run: both hosts on loopback, separate caches, and no other host reachable."""
    nowhere = "http://127.0.0.1:9"
    variables = {
        "HF_ENDPOINT": hub.url,
        "GITHUB_RAW_ENDPOINT": f"{hub.url}/raw",
        "HF_HOME": str(home),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "no_proxy": "127.0.0.1,localhost",
    }
    return os.environ | variables | ({key: "sk-rehearsal-on-loopback"} if key else {})


@contextmanager
def judge(folder: Path) -> Iterator[str]:
    """Run an OpenAI-compatible judge on loopback and yield its address."""
    ready = folder / "judge.url"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "focalpo.pocket.judge", "--ready-file", str(ready)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.is_file():
            if server.poll() is not None or time.monotonic() > deadline:
                raise ValueError("the rehearsal's judge did not start")
            time.sleep(0.02)
        yield ready.read_text()
    finally:
        server.terminate()
        server.wait()
