"""Slurm's commands: run one, read our part of the queue, and the limits of the site.

runs/.slurm/<job name>      the stage folders of an array, one per line: task n runs line n
"""

import getpass
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from focalpo.stages.origin import ROOT

LIVE = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "REQUEUED")


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
    for line in _queued("%i|%T|%r|%j"):
        job, state, reason, name = line.split("|", 3)
        folders = runs.absolute() / ".slurm" / name
        if folders.is_file() and state in LIVE:
            folder = Path(folders.read_text().split("\n")[int(job.rpartition("_")[2])])  # as bash's mapfile splits it
            tasks.append(Task(folder, job, state, reason))
    return tasks


def _queued(columns: str) -> list[str]:
    return slurm(["squeue", "--me", "--array", "--noheader", f"--format={columns}"]).splitlines()


@dataclass(frozen=True, slots=True)
class Limits:
    """The most tasks that an array may have, and that may still be submitted before some end, in all and of each QoS;
    None, or no entry: no limit. `default` is the QoS of jobs that name none."""

    array: int | None = None
    tasks: int | None = None
    qos: dict[str, int] = field(default_factory=dict)
    default: str = "normal"


def limits(account: str | None, qos: set[str | None]) -> Limits:
    """The site's limits for this user: MaxArraySize, and MaxSubmitJobs of the association and of each QoS, of which
    what the user has queued there already is taken off."""
    config = dict(re.findall(r"^(MaxArraySize|ClusterName)\s*=\s*(\S+)", slurm(["scontrol", "show", "config"]), re.M))
    user = getpass.getuser()
    account = account or "".join(_accounted("users", "DefaultAccount", name=user)[:1])
    place = {"user": user, "account": account, "cluster": config.get("ClusterName", "")}
    submits, defaults = (_accounted("associations", each, **place) for each in ("MaxSubmitJobs", "DefaultQOS"))
    queued = [line.partition("|") for line in _queued("%a|%q")]
    tasks = _least(submits, sum(account in ("", its) for its, _, _ in queued))
    default = next(filter(None, defaults), "normal")  # what Slurm takes where no association names one
    room: dict[str, int] = {}
    for name in {each or default for each in qos}:
        left = _least(_accounted("qos", "MaxSubmitJobsPerUser", name=name), sum(its == name for _, _, its in queued))
        room |= {} if left is None else {name: left}
    # Indices stay below MaxArraySize: arrays here start at 0.
    return Limits(int(config["MaxArraySize"]) if "MaxArraySize" in config else None, tasks, room, default)


def _least(submits: list[str], queued: int) -> int | None:
    """What the smallest of some limits leaves; None where none is a number."""
    numbers = [int(each) for each in submits if each.isdecimal()]
    return max(0, min(numbers) - queued) if numbers else None


def _accounted(what: str, column: str, **where: str) -> list[str]:
    """A column of Slurm's accounting; nothing on a cluster without it, which has no such limits."""
    names = [f"{name}={value}" for name, value in where.items() if value]
    try:
        shown = slurm(["sacctmgr", "--noheader", "--parsable2", "show", what, "where", *names, f"format={column}"])
    except ValueError:
        return []
    return [line.strip() for line in shown.splitlines()]


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
