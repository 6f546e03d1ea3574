"""What the stand-ins must hold, read from the configurations themselves: their names and revisions, never our own.

configurations --every hub id, revision, protocol--> repositories on disk --> environment and overrides of the run
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from focalpo.schema import Config
from rehearsal.benchmarks import protocol_over, repository_of
from rehearsal.datasets import texts, write_armorm, write_h4, write_trl_lib
from rehearsal.hub import Hub, Repository
from rehearsal.models import write_model

START_SECONDS = 30
# The setting's own start says which family its checkpoints are of; a name is never searched for one.
FAMILY_OF = {
    "HuggingFaceH4/mistral-7b-sft-beta": "mistral",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama3",
}
DATASETS = {
    "trl-lib/ultrafeedback_binarized": write_trl_lib,
    "HuggingFaceH4/ultrafeedback_binarized": write_h4,
    "princeton-nlp/llama3-ultrafeedback-armorm": write_armorm,
}


def build(configs: Iterable[Config], root: Path) -> list[Repository]:
    """Write every repository that the configurations name, anew; returns them."""
    shutil.rmtree(root, ignore_errors=True)
    found: dict[tuple[str, str], Repository] = {}
    words = texts()
    for config in configs:
        model, data = config.model, config.data
        assert model.path is not None and data.path is not None
        wanted = Repository("models", model.path, model.revision, root / "models" / model.path)
        if found.setdefault(("models", model.path), wanted) is wanted:
            write_model(FAMILY_OF[model.path], wanted.folder, words, seed=_seed(model.path))
        wanted = Repository("datasets", data.path, data.revision, root / "datasets" / data.path)
        if found.setdefault(("datasets", data.path), wanted) is wanted:
            DATASETS[data.path](wanted.folder)
        for name in config.judge.benchmarks.values():
            if not (root / f"{name}.made").is_dir():
                benchmark = repository_of(name, root)
                found[benchmark.kind, benchmark.name] = benchmark
    return list(found.values())


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def endpoints(config: Config, repositories: Iterable[Repository], protocols: Path, judge: str) -> list[str]:
    """Overrides: where the judge is, and the protocols over the stand-in's files instead of the published ones."""
    by_source = {repository.name: repository for repository in repositories}
    overrides = [f"judge.endpoint.base_url={judge}"]
    for role, name in config.judge.benchmarks.items():
        path = protocol_over(name, by_source, protocols)
        overrides.append(f"judge.benchmarks.{role}={path.with_suffix('')}")
    return overrides


def environment(hub: Hub, home: Path, key: str | None) -> dict[str, str]:
    """The environment of the run: both hosts on loopback, caches of its own, and no way out to any other host."""
    nowhere = "http://127.0.0.1:9"
    told = {
        "HF_ENDPOINT": hub.url,
        "GITHUB_RAW_ENDPOINT": f"{hub.url}/raw",
        "HF_HOME": str(home),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "no_proxy": "127.0.0.1,localhost",
    }
    return os.environ | told | ({key: "sk-rehearsal-on-loopback"} if key else {})


@contextmanager
def judge(folder: Path) -> Iterator[str]:
    """An OpenAI-compatible judge on loopback; gives its address."""
    ready = folder / "judge.url"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "focalpo.pocket.judge", "--ready-file", str(ready)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.is_file():
            if server.poll() is not None or time.monotonic() > deadline:
                raise ValueError("the judge of the rehearsal did not start")
            time.sleep(0.02)
        yield ready.read_text()
    finally:
        server.terminate()
        server.wait()

