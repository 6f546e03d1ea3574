"""What this machine has and lacks for a table, each line with its remedy: python -m recipes.doctor table=paper

    ok    disk          61 GiB free of 252
    fail  gpu           0 GPUs, launch.gpus=8: run on a GPU node, or CLUSTER=slurm

Nothing is written but one small file in runs/, and no key is ever printed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import httpx2
import torch
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from focalpo.config.schema import Config
from focalpo.planning.table import Planned, planned
from focalpo.running.command import run_command
from focalpo.stages.origin import ROOT

GIB = 1 << 30
OLDEST_DRIVER = 580  # CUDA 13, which torch 2.13 is built with, wants it
SKEW_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """`grade` is ok, warn or fail; a fail stops a table before it starts."""

    grade: str
    what: str
    said: str


def blocking(plan: Planned) -> list[str]:
    """What makes it pointless to start: the failures that need no network to find."""
    return [finding.said for finding in _local(plan) if finding.grade == "fail"]


def _local(plan: Planned) -> Iterator[Finding]:
    config = plan.first
    slurm = config.cluster.scheduler == "slurm"
    yield from _gpus(config, slurm)
    yield from _versions(config)
    yield from _disk(plan.runs)
    yield _memory()
    yield _judge_key(config)
    for each in {config.model.name: config for config in plan.configs.values()}.values():
        if each.model.path and not each.model.revision and not Path(each.model.path).is_dir():
            told = f"none of {each.model.path} is pinned: its newest commit is used, and told in manifest and report"
            yield Finding("warn", "revision", f"{told}; pin it in conf/model/{each.model.name}.yaml")
    if slurm:
        yield _slurm()


def _gpus(config: Config, slurm: bool) -> Iterator[Finding]:
    found, wanted = torch.cuda.device_count(), 0 if slurm else config.launch.gpus
    if found < wanted:
        yield Finding("fail", "gpu", f"{wanted} GPUs, this machine has {found}: run on a GPU node, or CLUSTER=slurm")
    else:
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(found)})) or "not needed here"
        yield Finding("ok", "gpu", f"{found} ({names})")
    driver = Path("/sys/module/nvidia/version")
    if driver.is_file():
        version = driver.read_text().strip()
        old = int(version.partition(".")[0]) < OLDEST_DRIVER
        remedy = f": CUDA {torch.version.cuda} wants {OLDEST_DRIVER} or newer, ask for an update" if old else ""
        yield Finding(
            "warn" if old else "ok", "driver", f"{version}, torch built for CUDA {torch.version.cuda}{remedy}"
        )


def _versions(config: Config) -> Iterator[Finding]:
    lines = (line.partition(" ; ")[0] for line in _lock().splitlines() if not line.startswith("#"))  # without markers
    pins = dict(line.strip().split("==") for line in lines)
    other = []
    for name in ("torch", "transformers", "deepspeed", "datasets", "alpaca-eval", "scikit-learn", "numpy", "vllm"):
        try:
            found = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if pins.get(name) != found:
            other.append(f"{name} {found} (locked {pins.get(name)})")
    yield (
        Finding("warn", "versions", f"{', '.join(other)}: make setup")
        if other
        else Finding("ok", "versions", "as in constraints.txt")
    )
    if config.generate.backend == "vllm" and find_spec("vllm") is None:
        yield Finding("fail", "vllm", "vllm: make setup EXTRAS=dev,vllm")


def _lock() -> str:
    return (ROOT / "constraints.txt").read_text()


def _disk(runs: Path) -> Iterator[Finding]:
    place = next(parent for parent in (runs.absolute(), *runs.absolute().parents) if parent.is_dir())
    usage = shutil.disk_usage(place)
    grade = "warn" if usage.free < 10 * GIB else "ok"
    remedy = ": free some or set runs=" if grade == "warn" else ""
    yield Finding(grade, "disk", f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB free at {place}{remedy}")
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            skew = os.stat(file.name).st_mtime - time.time()
    except OSError as error:
        yield Finding("fail", "runs", f"{place} cannot be written ({error.strerror}): set runs= to a folder of yours")
        return
    off = abs(skew) > SKEW_SECONDS
    told = f"the disk's clock is {skew:+.0f} s from this machine's: synchronise them; results do not depend on it"
    yield Finding("warn", "clock", told) if off else Finding("ok", "clock", "the disk's and this machine's agree")


def _memory() -> Finding:
    sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(sizes[name].split()[0]) / (1 << 20) for name in ("MemAvailable", "MemTotal"))
    grade = "warn" if free < 4 else "ok"
    remedy = ": end other programs, or launch.workers=1" if grade == "warn" else ""
    return Finding(grade, "memory", f"{free:.0f} of {total:.0f} GiB free{remedy}")


def _judge_key(config: Config) -> Finding:
    name = config.judge.endpoint.api_key_env
    if not name:
        return Finding("ok", "judge key", "none is needed")
    if not os.environ.get(name):
        return Finding("fail", "judge key", f"a judge key in the environment variable {name}: export it")
    return Finding("ok", "judge key", f"{name} is set")


def _slurm() -> Finding:
    try:
        ended = subprocess.run(["sinfo", "--noheader", "--format=%P %a %D"], capture_output=True, text=True)
    except FileNotFoundError:
        return Finding("fail", "slurm", "Slurm's commands are not here: run on a login node")
    if ended.returncode:
        return Finding("fail", "slurm", f"sinfo: {' '.join(ended.stderr.split())}: ask whether the controller runs")
    return Finding("ok", "slurm", "partitions " + "; ".join(ended.stdout.split("\n")[:-1]))


def _hub(plan: Planned) -> Iterator[Finding]:
    """Whether models can be fetched: asks the hub, so only when somebody wants to know."""
    models = {(config.model.path, config.model.revision) for config in plan.configs.values() if config.model.path}
    if not models:
        yield Finding("ok", "hub", "nothing is fetched")
    for path, revision in sorted(models, key=str):
        try:
            HfApi().model_info(path, revision=revision, timeout=10)
            HfApi().auth_check(path)
            yield Finding("ok", "hub", f"{path} may be fetched")
        except GatedRepoError:
            token = "with another account" if get_token() else "after `hf auth login`"
            yield Finding("fail", "licence", f"{path}: accept its licence at https://huggingface.co/{path}, {token}")
        except RepositoryNotFoundError:
            yield Finding("fail", "hub", f"{path} at {revision} is not there, or hidden from you: `hf auth login`")
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            cause = str(error).splitlines()[0][:100]
            yield Finding("warn", "hub", f"cannot be asked ({cause}): set HF_ENDPOINT, or fetch on another machine")


def doctor(arguments: list[str]) -> None:
    """Print every finding; ends with 1 when one of them is a failure."""
    plan = planned(arguments)
    findings = [*_local(plan), *_hub(plan)]
    for finding in findings:
        print(f"{finding.grade:5} {finding.what:10} {finding.said}")
    if any(finding.grade == "fail" for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    run_command(lambda: doctor(sys.argv[1:]))
