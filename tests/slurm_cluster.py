"""A real Slurm on this machine for tests: munged, slurmctld, two slurmd with 8 fake GPUs each, and its accounting.

Two partitions, a feature of each node, two QoS of which one may hold few jobs, arrays of at most four tasks. slurmdbd
keeps QoS and limits in a MariaDB of its own. Requires root.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tests.slurm_accounting import start_accounting

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd")
LASTING = ("munged", "slurmdbd", "mariadbd")  # the others end with them
PORTS = ("port", "first", "second", "accounting", "database")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=1
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
MaxArraySize=4
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge.sock
AccountingStorageEnforce=limits,qos
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobRequeue=1
KillWait=20
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=128 RealMemory=1000000 Gres=gpu:8 Features=old
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=128 RealMemory=1000000 Gres=gpu:8 Features=new
PartitionName=short Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=long Nodes=n[1-2] MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[None]:
    """Start a cluster that Slurm's commands use while the context is open; all daemons are stopped afterwards."""
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    # slurmd assigns GPUs by device file and checks the file type: a plain file gives no CUDA_VISIBLE_DEVICES.
    for number in range(8):
        os.mknod(folder / f"nvidia{number}", 0o666 | 0o020000, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/nvidia[0-7] Flags=nvidia_gpu_env\n")
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, **ports))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    os.environ["SLURM_CONF"] = str(conf)
    named = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE]
    try:
        subprocess.run(["munged", "--force", *named], check=True, capture_output=True)
        start_accounting(folder, ports)
        subprocess.run(["slurmctld", "-c", "-i"], check=True, capture_output=True)
        for node in ("n1", "n2"):
            start_node(node)
        wait_until(lambda: slurm("sinfo", "-h", "-N", "-p", "short", "-o", "%T").split() == ["idle", "idle"])
        yield
    finally:
        subprocess.run(["scancel", "--me", "--signal=KILL"], capture_output=True)
        for pid_file in [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid"]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while _having(f"SLURM_CONF={conf}", apart=LASTING) and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in _having(f"SLURM_CONF={conf}"):  # those that keep nothing, and a slurmd that waits for a job forever
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        del os.environ["SLURM_CONF"]


_MUNGE = (("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))


def start_node(node: str) -> None:
    subprocess.run(["slurmd", "-c", "-N", node], check=True, capture_output=True)


def repair_node(node: str) -> None:
    """Bring a node back after it was down."""
    start_node(node)
    slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")


def stop_node(folder: Path, node: str) -> None:
    """Simulate a power loss: kill slurmd, its slurmstepd processes and every process of its jobs."""
    os.kill(int((folder / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + 1:  # a job that is just starting appears later
        tasks = _having(f"SLURMD_NODENAME={node}")  # every process that Slurm starts has its node's name
        step_daemons = {parent for pid in tasks if (parent := _parent(pid)) and _name(parent).startswith("slurmstepd")}
        for pid in [*step_daemons, *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            quiet_since = time.monotonic()
    # The controller notices by itself after some pings, in one to four minutes; setting the state is faster.
    slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost its power")


def _having(variable: str, apart: tuple[str, ...] = ()) -> list[int]:
    """Other processes with this variable in their environment, apart from the programs of these names."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{variable}\0".encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                pids.append(int(path.parent.name))
    return [pid for pid in pids if _name(pid) not in apart]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def jobs() -> list[list[str]]:
    """Id, state, name, node and submission time of every task of ours."""
    lines = slurm("squeue", "--me", "--array", "--noheader", "--format=%i|%T|%j|%N|%V").splitlines()
    return [line.split("|") for line in lines]


def start_requeued_jobs() -> None:
    """Start requeued jobs after a few seconds, where Slurm would wait two minutes. They cannot start at once: a node
    still remembers that the last start was revoked."""
    for job, state, *_, submitted in jobs():
        if state == "PENDING" and (datetime.now() - datetime.fromisoformat(submitted)).seconds > 4:
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 600  # where the machine is busy, a stage takes minutes
    while not condition():
        assert time.monotonic() < deadline, slurm("squeue", "--array") + slurm("sinfo", "-N", "-l")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
