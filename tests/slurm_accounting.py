"""The accounting of the test cluster: slurmdbd and the database that it keeps QoS, accounts and limits in."""

import subprocess
import time
from pathlib import Path

CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
"""
SMALL = ("--skip-grant-tables", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M")
SMALL += ("--innodb-flush-log-at-trx-commit=0", "--aria-log-file-size=8M", "--performance-schema=OFF")


def start_accounting(folder: Path, ports: dict[str, int]) -> None:
    """Start both; Slurm's configuration is already in the folder. Everyone is root there: it listens to this machine
    only."""
    (folder / "slurmdbd.conf").write_text(CONF.format(folder=folder, **ports))
    (folder / "slurmdbd.conf").chmod(0o600)
    (folder / "database").mkdir()
    database = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/database", *SMALL]
    # What mariadb-install-db does, without its tables of help and statistics, which take most of its time.
    tables = "CREATE DATABASE mysql;\nUSE mysql;\n" + Path("/usr/share/mysql/mysql_system_tables.sql").read_text()
    subprocess.run([*database, "--bootstrap"], input=tables, text=True, check=True, capture_output=True)
    named = [f"--socket={folder}/database.sock", f"--pid-file={folder}/mariadbd.pid", f"--port={ports['database']}"]
    with (folder / "mariadbd.log").open("w") as log:
        daemon = ["setsid", "--fork", *database, "--bind-address=127.0.0.1", *named]
        subprocess.run(daemon, check=True, stdout=log, stderr=log)
    _wait_for(folder / "database.sock")
    subprocess.run(["slurmdbd"], check=True, capture_output=True)
    _patiently("add", "cluster", "test")
    for what in (["account", "lab"], ["user", "root", "account=lab"], ["qos", "urgent"]):
        sacctmgr("add", *what)
    sacctmgr("modify", "user", "root", "set", "qos=normal,urgent")


def sacctmgr(*words: str) -> str:
    """Change the accounting, or ask it."""
    command = ["sacctmgr", "--immediate", "--noheader", "--parsable2", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _wait_for(path: Path) -> None:
    """slurmdbd would try again five seconds later."""
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _patiently(*words: str) -> None:
    """As `sacctmgr`, while slurmdbd makes its tables."""
    deadline = time.monotonic() + 60
    while True:
        try:
            sacctmgr(*words)
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
