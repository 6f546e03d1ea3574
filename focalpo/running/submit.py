"""Submit a table as Slurm jobs: similar stages become one array, and their inputs become its dependencies.

stages that are neither sealed nor queued -> groups (kind, size, dependencies) -> sbatch, in order

runs/.slurm/<job name>      the stage folders of an array, one per line: task n runs line n
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from focalpo.config.schema import ClusterConfig, SizeConfig
from focalpo.planning.needs import ranks_of
from focalpo.planning.stages import in_order
from focalpo.running.worker import RANKED
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.origin import ROOT

TEMPLATES = {kind: "train" for kind in RANKED} | {"generate": "generate", "sample": "generate", "report": "report"}


@dataclass(slots=True)
class Array:
    """Stages of one kind that wait for the same arrays; `job` is the Slurm job id, once submitted."""

    kind: str
    waits_for: tuple["Array", ...]
    stages: list[Stage] = field(default_factory=list)
    job: str = ""

    def mirrors(self, other: "Array") -> bool:
        """Whether task n of this array needs task n of the other array and no other task of it."""
        other_keys = [stage.key for stage in other.stages]
        needed = [{need.key for need in stage.inputs.values()} & set(other_keys) for stage in self.stages]
        return needed == [{key} for key in other_keys]


def arrays(stages: list[Stage], done: set[str], queued: dict[str, str]) -> list[Array]:
    """Group the stages left to submit, in order; `done` holds keys, `queued` maps keys to job ids."""
    place: dict[str, Array] = {}
    found: dict[tuple, Array] = {}
    for stage in stages:
        if stage.key in done:
            continue
        if stage.key in queued:
            place[stage.key] = Array(stage.kind, (), [stage], queued[stage.key])
            continue
        needed = [place[need.key] for need in stage.inputs.values() if need.key in place]
        waits_for = tuple({id(array): array for array in needed}.values())
        key = (stage.kind, stage.launch.get("ranks", 1), tuple(sorted(id(array) for array in waits_for)))
        array = found.setdefault(key, Array(stage.kind, waits_for))
        array.stages.append(stage)
        place[stage.key] = array
    return list(found.values())


def dependency(array: Array) -> str:
    """The array's `--dependency`: task by task where the tasks correspond, so that a failed row stops only itself."""
    kinds = [("aftercorr" if array.mirrors(other) else "afterok", other.job) for other in array.waits_for]
    return ",".join(f"{kind}:{job}" for kind, job in kinds)


def submit(runs: Path, goal: Stage, cluster: ClusterConfig) -> str:
    """Submit the goal and the missing stages that it needs; returns one line per array.

    Raises:
        ValueError: when the sizes do not match the ranks, Slurm cannot name a log under `runs`, or rejects a job.
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
    lines = []
    for array in left:
        array.job = _sbatch(array, runs, cluster)
        waiting = dependency(array)
        lines.append(f"{array.job}  {array.kind} x {len(array.stages)}" + (f"  {waiting}" if waiting else ""))
    return "\n".join([*lines, f"{sum(len(a.stages) for a in left)} stages submitted; make status shows them"])


def _check_size(array: Array, cluster: ClusterConfig) -> None:
    size, ranks = cluster.stages.get(array.kind), ranks_of(array.stages[0])
    if size is None:
        raise ValueError(f"cluster.stages.{array.kind} is not set; set its size in conf/cluster")
    if size.gpus and size.nodes * size.gpus != ranks:
        required = f"launch.ranks={ranks}"
        if array.kind not in RANKED:
            required = f"the {ranks} of generate.tensor_parallel x generate.data_parallel"
        raise ValueError(
            f"cluster.stages.{array.kind}: {size.nodes} nodes x {size.gpus} GPUs do not match {required}; change one"
        )


def _sbatch(array: Array, runs: Path, cluster: ClusterConfig) -> str:
    folders = [_prepared(Folder(runs, stage)) for stage in array.stages]
    text = "".join(f"{folder}\n" for folder in folders)
    name = f"{array.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    tasks = runs / ".slurm" / name
    tasks.parent.mkdir(parents=True, exist_ok=True)
    tasks.write_text(text)
    size = cluster.stages[array.kind]
    template = f"slurm/{TEMPLATES.get(array.kind, 'judge')}.sbatch"
    arguments = [str(tasks), cluster.setup or "", *cluster.container]
    command = ["sbatch", "--parsable", *_flags(array, size, cluster, tasks), template, *arguments]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FOCALPO_RANKS": str(array.stages[0].launch.get("ranks", 1)),
    }
    return slurm(command, environment).split(";")[0]


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
        "partition": cluster.partition,
        "account": cluster.account,
        "dependency": dependency(array) or None,
        "kill-on-invalid-dep": "yes",
    }
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def _prepared(folder: Folder) -> Path:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.job.write()
    return folder.path


@dataclass(frozen=True, slots=True)
class Task:
    """One of our tasks in Slurm's queue."""

    folder: Path
    job: str
    state: str
    reason: str

    @property
    def key(self) -> str:
        return self.folder.name.rpartition("-")[2]


def queue(runs: Path) -> list[Task]:
    """Our tasks that are queued or running, each with its stage folder."""
    tasks = []
    for line in slurm(["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r|%j"]).splitlines():
        job, state, reason, name = line.split("|", 3)
        folders = runs.absolute() / ".slurm" / name
        if folders.is_file() and state in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "REQUEUED"):
            folder = Path(folders.read_text().split("\n")[int(job.partition("_")[2])])  # as bash's mapfile splits it
            tasks.append(Task(folder, job, state, reason))
    return tasks


def slurm(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a Slurm command and return its output.

    Raises:
        ValueError: when the command fails, or Slurm is not installed.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, cwd=ROOT)
    except FileNotFoundError:
        raise ValueError(f"{command[0]} not found; run this on a login node of a Slurm cluster") from None
    except OSError as error:  # not executable, or arguments that are too long
        raise ValueError(f"{command[0]} cannot be started ({error.strerror}); ask the cluster's operators") from error
    if result.returncode:
        raise ValueError(f"{command[0]} failed: {' '.join(result.stderr.split())}")
    return result.stdout.strip()
