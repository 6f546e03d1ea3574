"""Where stages run: the shape of conf/cluster/*.yaml and the checks of its values."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SCHEDULERS = ("local", "slurm")
KINDS = (
    *("convert", "sft", "prompts", "sample", "reward", "pairs", "reference", "anchors", "train"),
    *("benchmark", "answers", "generate", "judge", "duel", "check", "capability", "report", "duels"),
    *("held_out", "sweep"),
)
MEMORY = re.compile(r"\d+(\.\d+)?[KMGT]?", re.IGNORECASE)
FLAG = re.compile(r"--([a-z][a-z0-9-]*)(=.*)?", re.DOTALL)
OF_A_KEY = {
    "partition": "partition",
    "qos": "qos",
    "constraint": "constraint",
    "account": "account",
    "nodes": "stages.KIND.nodes",
    "gpus-per-node": "stages.KIND.gpus",
    "cpus-per-task": "stages.KIND.cpus",
    "mem": "stages.KIND.memory",
    "time": "stages.KIND.minutes",
}
"""Flags of sbatch that a key of the cluster sets."""
OURS = (
    *("array", "chdir", "dependency", "error", "input", "job-name", "kill-on-invalid-dep", "open-mode", "output"),
    *("cpus-per-gpu", "gpus", "gpus-per-task", "mem-per-cpu", "mem-per-gpu", "ntasks", "ntasks-per-core"),
    *("ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "requeue", "no-requeue", "signal", "export-file"),
    *("clusters", "help", "parsable", "quiet", "test-only", "usage", "version", "wait", "wrap"),
)
"""Flags of sbatch on which the arrays, their templates or the reading of sbatch's answer depend."""


@dataclass(slots=True)
class SizeConfig:
    """What a Slurm job of one kind of stage requests: resources per node, and where to run if not as the cluster says.

    `sbatch` holds further flags, `--name=value` each, after those of the cluster.
    """

    nodes: int
    gpus: int
    cpus: int
    memory: str
    minutes: int
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    sbatch: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ClusterConfig:
    """Where stages run: `local` (this machine) or `slurm`, with the site's names and the job size by kind of stage."""

    scheduler: str
    partition: str | None
    qos: str | None
    constraint: str | None
    account: str | None
    sbatch: list[str]
    setup: str | None
    container: list[str]
    at_once: int
    stages: dict[str, SizeConfig]


def cluster_problems(cluster: ClusterConfig) -> Iterator[str]:
    """Every mistake in where stages run, each with its remedy."""
    if cluster.scheduler not in SCHEDULERS:
        yield f"cluster.scheduler={cluster.scheduler!r} is not one of {', '.join(SCHEDULERS)}; choose cluster=NAME"
        return
    if cluster.scheduler == "local":
        names = ("partition", "qos", "constraint", "account", "sbatch", "setup", "container", "at_once", "stages")
        if unread := [f"cluster.{name}" for name in names if getattr(cluster, name)]:
            verb = "have" if len(unread) > 1 else "has"
            yield f"{', '.join(unread)} {verb} no effect on this machine; choose a cluster with Slurm, cluster=slurm"
        return
    if cluster.at_once < 0:
        yield f"cluster.at_once={cluster.at_once} must be >= 0 (0: no limit)"
    yield from _names("cluster", cluster)
    for kind, size in cluster.stages.items():
        place = f"cluster.stages.{kind}"
        if kind not in KINDS:
            yield f"{place}: no stage is called {kind}; name one of {', '.join(KINDS)}"
        for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("minutes", 1)):
            if getattr(size, name) < least:
                yield f"{place}.{name}={getattr(size, name)} must be >= {least}"
        if not MEMORY.fullmatch(size.memory):
            yield f"{place}.memory={size.memory} is no size; write it as in 64G"
        yield from _names(place, size)


def _names(place: str, values: ClusterConfig | SizeConfig) -> Iterator[str]:
    for name in ("partition", "qos", "constraint", "account"):
        value = getattr(values, name, None)
        if value is not None and not value.strip():
            yield f"{place}.{name} is empty; set it to null"
    for flag in values.sbatch:
        yield from (f"{place}.sbatch: {problem}" for problem in _flag_problems(flag))


def _flag_problems(flag: str) -> Iterator[str]:
    found = FLAG.fullmatch(flag)
    if found is None:
        yield f"{flag!r} is no flag of sbatch; write each as --name or --name=value"
        return
    known = [name for name in (*OF_A_KEY, *OURS) if name.startswith(found[1])]  # sbatch reads --arr=0 as --array=0
    if known and found[1] != "export":
        name = found[1] if found[1] in known else known[0]
        key = OF_A_KEY.get(name)
        yield f"{flag} is set by cluster.{key}; set that" if key else f"{flag} is set by the project itself; remove it"
