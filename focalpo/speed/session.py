"""A session on a GPU that is lent for minutes: python -m focalpo.speed.session OUT SECONDS BENCH...

It measures the rows of `plan`, the most valuable first, and prints and writes each at once to OUT/rows.jsonl. A row
that runs out of memory is tried smaller, one that takes too long is ended, what a package is missing for is named, and
so is what the seconds did not suffice for. However it ends, there is a table: OUT/table.txt.

This process imports nothing that a bare machine may lack, and never touches the GPU: two workers do, one per engine.
"""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from focalpo.processes.apart import Apart
from focalpo.speed.summary import line, state, table
from focalpo.speed.tasks import FAILED, LEFT_OUT, MEMORY, MISSING, OK, OURS, TIMED_OUT, Row, Task

LEAST = 10.0
"""Seconds that must be left to begin a row."""
CLOSING = 5.0
"""Seconds kept for the table."""
MOST_HELD = 1 << 30
"""Bytes of the GPU that a worker may keep between rows; one that keeps more is replaced."""
NEEDED = ("torch", "transformers", "numpy")
USEFUL = {
    "deepspeed": "this engine's speed, training and export",
    "hydra": "any speed: it reads conf/bench",
    "trl": "TRL's speed",
    "datasets": "TRL's speed",
    "liger_kernel": "both engines with Liger's layers",
    "flash_attn_interface": "FlashAttention-3",
}


def started(benches: list[str], log: Path) -> Any:
    """A worker's object, made in its process."""
    from focalpo.speed.worker import Worker

    return Worker(benches, log)


class Workers:
    """The worker processes by name, started when first asked and replaced when they have died or were ended."""

    def __init__(self, make: Any, *arguments: object) -> None:
        self.make, self.arguments = make, arguments
        self.live: dict[str, Apart] = {}

    def ask(self, name: str, method: str, *arguments: object, until: float) -> Any:
        """The result of a method of the worker's object.

        Raises:
            TimeoutError: when there is none by the time `until`; the worker is ended.
            ValueError: when the worker has died.
        """
        try:
            if name not in self.live:
                self.live[name] = Apart({}, self.make, *self.arguments)
                self.live[name].hear(until - time.monotonic())
            self.live[name].ask(method, *arguments)
            return self.live[name].hear(max(0.0, until - time.monotonic()))
        except (TimeoutError, ValueError, RuntimeError, MemoryError):
            self.end(name)
            raise

    def end(self, name: str) -> None:
        if worker := self.live.pop(name, None):
            worker.__exit__(TimeoutError, None, None)  # killed: what it computes is not waited for

    def end_all(self) -> None:
        for name in list(self.live):
            self.end(name)


class Session:
    """Runs tasks until the time `until`, and keeps their rows."""

    def __init__(self, workers: Workers, out: Path, until: float) -> None:
        self.workers, self.out, self.until = workers, out, until
        self.rows: list[Row] = []
        self.logps: dict[str, dict] = {}  # of references, by task
        self.fits: dict[str, int] = {}  # the size that fitted the last repeat of a task
        self.begun = time.monotonic()

    def record(self, row: Row) -> None:
        """Print a row, and write it and the table of all rows so far to the disk."""
        self.rows.append(row)
        with (self.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        (self.out / "table.txt").write_text(table(self.rows) + "\n")
        print(f"{time.monotonic() - self.begun:4.0f} s  {line(row)}", flush=True)

    def run(self, task: Task) -> None:
        """Run a task at the largest of its sizes that fits."""
        repeated = task.name.rpartition("/")[0]
        for place in range(self.fits.get(repeated, 0), len(task.sizes)):
            row = Row(task.part, task.name, task.sizes[place], LEFT_OUT, "too few seconds were left")
            if self.until - time.monotonic() >= LEAST:
                row = self.measured(task, place, row)
            self.record(row)
            if row.result == OK:
                self.fits[repeated] = place
            if row.result != MEMORY:
                return

    def measured(self, task: Task, place: int, row: Row) -> Row:
        missing = [name for name in task.needs if find_spec(name) is None]
        if missing:
            return replace(row, result=MISSING, why=", ".join(missing))
        if task.reference and task.reference not in self.logps:
            return replace(row, why="its reference was not computed")
        now = time.monotonic()
        until = min(now + task.seconds, self.until)
        known = self.logps[task.reference] if task.reference else {}
        try:
            result, why, figures = self.workers.ask(task.worker, "run", task.name, place, known, until=until)
        except TimeoutError:
            limit, took = "the session's" if until == self.until else "a row's", until - now
            return replace(row, result=TIMED_OUT, why=f"ended after {took:.0f} s, {limit} limit", seconds=took)
        except (ValueError, RuntimeError, MemoryError) as error:
            return replace(row, result=FAILED, why=f"{error}; {self.last_words()}", seconds=time.monotonic() - now)
        if figures.pop("held_bytes") > MOST_HELD:
            self.workers.end(task.worker)
        if "logps" in figures:
            self.logps[task.name] = figures.pop("logps")
        return replace(row, result=result, why=why, figures=figures, seconds=time.monotonic() - now)

    def last_words(self) -> str:
        """The end of what the workers wrote."""
        log = self.out / "log.txt"
        lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
        return f"log.txt ends: {lines[-1]}" if lines else "it wrote no log"


@contextmanager
def summarised(session: Session, tasks: list[Task]) -> Iterator[None]:
    """However the block ends, name the tasks that it left out, end the workers, and print the table."""
    ended = "the session was stopped"
    try:
        yield
        ended = "the session ended"
    except KeyboardInterrupt:
        pass
    finally:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        session.workers.end_all()
        done = {row.name for row in session.rows}
        for task in tasks:
            if task.name not in done:
                session.record(Row(task.part, task.name, task.sizes[0], LEFT_OUT, ended))
        print(f"\n{table(session.rows)}\n{session.out}/table.txt, rows.jsonl, log.txt", flush=True)


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def main(out: Path, seconds: float, benches: Sequence[str], make: Any = started) -> bool:
    """Run a session; returns whether every row was measured as it should be."""
    until = time.monotonic() + seconds - CLOSING
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.jsonl").unlink(missing_ok=True)
    for number in STOPPING:
        signal.signal(number, _stop)
    session = Session(Workers(make, list(benches), out / "log.txt"), out, until)
    tasks: list[Task] = []
    with summarised(session, tasks):
        tasks += begin(session)
        for task in tasks:
            session.run(task)
    return all(state(row) == OK for row in session.rows)


def begin(session: Session) -> list[Task]:
    """Print what the machine has and lacks; return what there is to do."""
    print(f"has    Python {sys.version.split()[0]}, {sys.executable}", flush=True)
    lacking = [name for name in (*NEEDED, *USEFUL) if find_spec(name) is None]
    for name in lacking:
        print(f"lacks  {name}: without it, not {USEFUL.get(name, 'anything')}", flush=True)
    blocked = [name for name in lacking if name in NEEDED]
    if blocked:
        session.record(Row("machine", "all", "", MISSING, ", ".join(blocked)))
        return []
    try:
        print(f"has    {session.workers.ask(OURS, 'here', until=session.until)}", flush=True)
        return session.workers.ask(OURS, "plan", until=session.until)
    except (TimeoutError, ValueError, RuntimeError, MemoryError) as error:
        session.record(Row("machine", "all", "", FAILED, f"{error or 'no worker started'}; {session.last_words()}"))
        return []


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
