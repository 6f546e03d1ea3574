"""Slurm's commands: run one, read our part of the queue, and the limits of the site.

runs/.slurm/<job name>      the stage folders of an array, one per line: task n runs line n
"""

import getpass
import re
import subprocess
from dataclasses import dataclass
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
    for line in _queued():
        job, state, reason, name = line.split("|", 3)
        folders = runs.absolute() / ".slurm" / name
        if folders.is_file() and state in LIVE:
            folder = Path(folders.read_text().split("\n")[int(job.partition("_")[2])])  # as bash's mapfile splits it
            tasks.append(Task(folder, job, state, reason))
    return tasks


def _queued() -> list[str]:
    return slurm(["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r|%j"]).splitlines()


@dataclass(frozen=True, slots=True)
class Limits:
    """The most tasks that an array may have, and that may still be submitted before some end; None: no limit."""

    array: int | None = None
    tasks: int | None = None


def limits(account: str | None, qos: set[str]) -> Limits:
    """The site's limits for this user: MaxArraySize, and MaxSubmitJobs of the association and of each QoS, of which
    what is queued already is taken off."""
    most = re.search(r"^MaxArraySize\s*=\s*(\d+)", slurm(["scontrol", "show", "config"]), re.MULTILINE)
    user = getpass.getuser()
    account = account or _accounted(["users", "where", f"name={user}", "format=DefaultAccount"])
    place = ["where", f"user={user}", *([f"account={account}"] if account else [])]
    found = [_accounted(["associations", *place, "format=MaxSubmitJobs"])]
    found += [_accounted(["qos", "where", f"name={name}", "format=MaxSubmitJobsPerUser"]) for name in sorted(qos)]
    submits = [int(line) for text in found for line in text.splitlines() if line.strip().isdecimal()]
    left = max(0, min(submits) - len(_queued())) if submits else None
    # Indices stay below MaxArraySize: arrays here start at 0.
    return Limits(int(most[1]) if most else None, left)


def _accounted(what: list[str]) -> str:
    """What Slurm's accounting says; nothing on a cluster without it, which has no such limits."""
    try:
        return slurm(["sacctmgr", "--noheader", "--parsable2", "show", *what])
    except ValueError:
        return ""


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
