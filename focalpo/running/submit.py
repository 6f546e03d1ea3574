"""Submit a stage and the missing stages that it needs as Slurm job arrays (arrays.py), each by one sbatch.

The templates of slurm/ take what differs between kinds as arguments; the environment of a job is what the site's export
policy lets through, and only a judge's has the judge's key.
"""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from focalpo.config.cluster import ClusterConfig, SizeConfig
from focalpo.config.schema import Config
from focalpo.planning.ranks import ranks_of
from focalpo.planning.stages import in_order
from focalpo.running.arrays import Array, arrays, dependency, fitting
from focalpo.running.launching import RANKED
from focalpo.running.slurm import limits, queue, slurm
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.origin import ROOT

TEMPLATES = {kind: "train" for kind in RANKED} | {"report": "report", "duels": "report"}
TEMPLATES |= dict.fromkeys(("generate", "sample", "held_out", "capability"), "generate")


def left_to_slurm(runs: Path, goal: Stage, config: Config) -> bool:
    """Submit the goal where the configuration names a cluster and anything is missing; whether that was the case."""
    stages = in_order([goal])
    if config.cluster.scheduler != "slurm" or all(Folder(runs, stage).sealed for stage in stages):
        return False
    print(submit(runs, goal, config.cluster, config.judge.endpoint.api_key_env))
    return True


def submit(runs: Path, goal: Stage, cluster: ClusterConfig, judge_key: str | None = None) -> str:
    """Submit the goal and the missing stages that it needs; returns one line per array.

    Args:
        judge_key: the environment variable with the judge's key, besides those that the stages name.

    Raises:
        ValueError: when the sizes do not match the ranks, Slurm cannot name a log under `runs`, or rejects a job; then
            with what was submitted before.
    """
    runs = runs.absolute()
    if any(sign in str(runs) for sign in "\\\n"):
        raise ValueError(f"runs={str(runs)!r}: Slurm writes no log below a backslash or a line break; choose another")
    stages = in_order([goal])
    done = {stage.key for stage in stages if Folder(runs, stage).sealed}
    queued = {task.key: task.job for task in queue(runs)}
    left = arrays(stages, done, queued)
    if not left:
        return f"nothing to submit: {len(done)} stages are sealed, {len(queued)} are queued or running"
    for array in left:
        _check_size(array, cluster)
    qos = {kind: placed(size, cluster).qos for kind, size in cluster.stages.items()}
    most = limits(cluster.account, {qos[array.kind] for array in left})
    left = arrays(stages, done, queued, most.array)
    fit = fitting(left, most, qos)
    secrets = {name for stage in stages for name in _keys_of(stage)} | ({judge_key} if judge_key else set())
    lines = _submitted(fit, runs, cluster, secrets)
    count, rest = (sum(len(array.stages) for array in part) for part in (fit, left))
    if count < rest:
        said = f"{count} of {rest} stages submitted, MaxSubmitJobs has no room for more"
        return "\n".join([*lines, f"{said}; run again for the others when jobs of yours end"])
    return "\n".join([*lines, f"{count} stages submitted; squeue --me shows them, make status those of a table"])


def _submitted(left: list[Array], runs: Path, cluster: ClusterConfig, secrets: set[str]) -> list[str]:
    """Submit arrays one after the other; returns a line for each."""
    lines: list[str] = []
    jobs: list[str] = []
    try:
        for array in left:
            array.job = _sbatch(array, runs, cluster, secrets)
            jobs.append(array.job)
            waiting = dependency(array)
            lines.append(f"{array.job}  {array.kind} x {len(array.stages)}" + (f"  {waiting}" if waiting else ""))
    except ValueError as error:
        raise ValueError(f"{error}; {_broken(jobs, len(left))}") from error
    except KeyboardInterrupt:
        print(_broken(jobs, len(left)), file=sys.stderr)
        raise
    return lines


def _broken(jobs: list[str], total: int) -> str:
    if not jobs:
        return "nothing was submitted"
    return (
        f"{len(jobs)} of {total} arrays were submitted before: cancel them by scancel {' '.join(jobs)}, or run the "
        "same command again to submit the others"
    )


def _check_size(array: Array, cluster: ClusterConfig) -> None:
    size, ranks, place = cluster.stages.get(array.kind), ranks_of(array.stages[0]), f"cluster.stages.{array.kind}"
    if size is None:
        raise ValueError(f"{place} is not set; set its size in conf/cluster")
    required = f"launch.ranks={ranks}"
    if array.kind not in RANKED:
        required = f"the {ranks} of generate.tensor_parallel x generate.data_parallel"
    if size.gpus and size.nodes * size.gpus != ranks:
        raise ValueError(f"{place}: {size.nodes} nodes x {size.gpus} GPUs do not match {required}; change one")
    if size.nodes > 1 and (array.kind not in RANKED or ranks % size.nodes):
        remedy = f"{required} cannot be divided among them" if array.kind in RANKED else "it runs on one; set nodes=1"
        raise ValueError(f"{place}.nodes={size.nodes}: {remedy}")


def _sbatch(array: Array, runs: Path, cluster: ClusterConfig, secrets: set[str]) -> str:
    folders = [_prepared(Folder(runs, stage)) for stage in array.stages]
    text = "".join(f"{folder}\n" for folder in folders)
    name = f"{array.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    tasks = runs / ".slurm" / name
    tasks.parent.mkdir(parents=True, exist_ok=True)
    tasks.write_text(text)
    size = placed(cluster.stages[array.kind], cluster)
    template = f"slurm/{TEMPLATES.get(array.kind, 'judge')}.sbatch"
    arguments = [*_launch(array, size, cluster), str(tasks), cluster.setup or "", *cluster.container]
    needed = {name for stage in array.stages for name in _keys_of(stage)}
    flags, environment = exported(size.sbatch, dict(os.environ), secrets, needed)
    command = ["sbatch", "--parsable", *flags, *_flags(array, size, cluster, tasks), template, *arguments]
    return slurm(command, environment).split(";")[0]


def placed(size: SizeConfig, cluster: ClusterConfig) -> SizeConfig:
    """The size of one kind of stage with the cluster's partition, QoS and constraint where it has none of its own."""
    own = {name: getattr(size, name) or getattr(cluster, name) for name in ("partition", "qos", "constraint")}
    return replace(size, **own, sbatch=[*cluster.sbatch, *size.sbatch])


def _keys_of(stage: Stage) -> set[str]:
    """The environment variables with keys that a stage reads."""
    name = stage.launch.get("endpoint", {}).get("api_key_env")
    return {name} if name else set()


def exported(
    flags: list[str], environment: dict[str, str], secrets: set[str], needed: set[str]
) -> tuple[list[str], dict[str, str]]:
    """The flags and the environment of an sbatch whose job has the needed secrets and no other.

    The policy is that of the flags, or of the site's SBATCH_EXPORT; without one, sbatch exports everything. A policy
    that does not (NONE, NIL or a list of names) has the needed secrets added by name, never by value.
    """
    own = [flag for flag in flags if flag.partition("=")[0] == "--export"]
    others = [flag for flag in flags if flag not in own]
    policy = own[-1].partition("=")[2] if own else environment.get("SBATCH_EXPORT", "ALL")
    kept = {name: value for name, value in environment.items() if name not in secrets - needed}
    names = [name for name in policy.split(",") if name and name.partition("=")[0] not in secrets]
    if "ALL" not in (name.upper() for name in names):
        listed = [name for name in names if name.upper() not in ("NONE", "NIL")] + sorted(needed & environment.keys())
        names = listed or names or ["NONE"]
    given = ",".join(names)
    return ([*others, f"--export={given}"] if given != "ALL" or own else others), kept


def _launch(array: Array, size: SizeConfig, cluster: ClusterConfig) -> list[str]:
    """What the job is told, and compares with what it got: ranks, threads of each, and cores and GPUs of a node."""
    ranks = array.stages[0].launch.get("ranks", 1) if array.kind in RANKED else 1
    values = {
        "ranks": ranks,
        "threads": max(1, size.cpus // (ranks // size.nodes)),
        "cpus": size.cpus,
        "gpus": size.gpus,
    }
    python = [] if cluster.container else [f"--path={Path(sys.executable).parent}"]
    return [*(f"--{name}={value}" for name, value in values.items()), *python]


def _flags(array: Array, size: SizeConfig, cluster: ClusterConfig, tasks: Path) -> list[str]:
    at_once = f"%{cluster.at_once}" if cluster.at_once else ""
    flags = {
        "job-name": tasks.name,
        "array": f"0-{len(array.stages) - 1}{at_once}",
        "output": f"{str(tasks).replace('%', '%%')}-%A_%a.log",  # in a folder `50%off` the rest is no pattern
        "chdir": str(ROOT),
        "nodes": str(size.nodes),
        "cpus-per-task": str(size.cpus),
        "mem": size.memory,
        "time": str(size.minutes),
        "gpus-per-node": str(size.gpus) if size.gpus else None,
        "partition": size.partition,
        "qos": size.qos,
        "constraint": size.constraint,
        "account": cluster.account,
        "dependency": dependency(array) or None,
        "kill-on-invalid-dep": "yes",
    }
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def _prepared(folder: Folder) -> Path:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.job.write()
    return folder.path
