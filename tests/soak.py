"""Kill a small table at random, again and again, and compare all that comes out with an undisturbed run.

python -m tests.soak kills=20 minutes=10 seed=1

Every kill draws a moment and a victim: the whole process group, the command alone, or any of its descendants (a worker,
the judge's server). When a table is complete, every sealed output is compared, byte for byte, and the next one starts
from nothing. Ends at the number of kills or minutes, whichever comes first, with 1 when anything differed or was left.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from focalpo.stages.folder import Damaged, read_manifest, verify

ROOT = Path(__file__).parent.parent
SMALL = [
    "rows=sft,dpo,focalpo",
    "seeds=1",
    "model.phases.pretraining.count=1280",
    "model.phases.pretraining.train.max_steps=40",
    "model.phases.pretraining.train.checkpoint_every=5",
    "model.phases.sft.count=640",
    "model.phases.sft.train.checkpoint_every=3",
    "data.prompts=400",
    "train.max_steps=10",
    "train.checkpoint_every=2",
    "dynamics.train_pairs=50",
    "judge.endpoint.max_attempts=9",
]
# What holds seconds, dates or the order in which replies came, and so differs between runs that are equal.
APART = ("records.jsonl", "report.html", "report.md", "report.tex", "checklist.md")
GRACE_SECONDS = 30
HANG_LENGTHS = 10  # of an undisturbed run
MARK = "FOCALPO_SOAK"


def start(runs: Path, mark: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "recipes.reproduce", f"runs={runs}", *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: mark}
    with (runs.parent / f"{runs.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def marked(mark: str) -> list[int]:
    """Live processes that a run of ours has started, however they are related by now."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}\0".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def outputs(runs: Path) -> dict[str, str]:
    """Every sealed output and its hash; what is not as its manifest says goes by that name.

    A manifest's facts count as well, without the numbers of calls, which kills change.
    """
    found = {}
    for manifest in sorted(runs.glob("*/*/manifest.json")):
        folder, stage = manifest.parent, f"{manifest.parent.parent.name}/{manifest.parent.name}"
        try:
            verify(folder)
        except Damaged as damage:
            found[stage] = str(damage)
        content = read_manifest(folder)
        found |= {f"{stage}/{name}": value for name, value in content["outputs"].items() if name not in APART}
        facts = {name: value for name, value in content["facts"].items() if name != "calls"}
        found[f"{stage} facts"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return found


def strike(process: subprocess.Popen, mark: str, draw: random.Random) -> str:
    """Kill something of the run; returns what."""
    others = [pid for pid in marked(mark) if pid != process.pid]
    victim = draw.choice(["group", "command", "descendant"])
    if victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif victim == "command" or not others:
        process.kill()
        victim = "command"
    else:
        pid = draw.choice(others)
        victim = "judge" if b"focalpo.pocket.judge" in _command(pid) else "worker"
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            victim = "missed"
        if victim == "judge":
            return victim  # the stage goes on without it, or fails and is told
    return victim


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def leaked(mark: str) -> list[int]:
    """Processes that outlive their run by more than a moment."""
    deadline = time.monotonic() + GRACE_SECONDS
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    return marked(mark)


def soak(kills: int, minutes: float, seed: int) -> bool:
    """Returns whether nothing differed and nothing was left behind."""
    draw, started = random.Random(seed), time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    shm, done, tables = set(os.listdir("/dev/shm")), Counter(), 0
    differing: set[str] = set()
    mark = f"{os.getpid()}"
    # In the same place as the others: a model's card says where the model was started from.
    assert start(place / "runs", mark).wait() == 0, f"the undisturbed run failed, see {place}"
    expected, length = outputs(place / "runs"), time.monotonic() - started
    shutil.rmtree(place / "runs")
    print(f"undisturbed: {len(expected)} outputs in {length:.0f} s", flush=True)
    stages_killed = Counter()
    # At the limits the last table is still finished, undisturbed: an unfinished one proves nothing.
    while True:
        over = sum(done.values()) >= kills or time.monotonic() - started > 60 * minutes
        process = start(place / "runs", mark)
        try:
            code = process.wait(HANG_LENGTHS * length if over else draw.uniform(1, length / 2))
        except subprocess.TimeoutExpired:
            if over:
                print(f"\nthe last run hangs, see {place}/runs.log", flush=True)
                os.killpg(process.pid, signal.SIGKILL)
                return False
            busy = _busy(place / "runs")
            victim = strike(process, mark, draw)
            try:
                code = process.wait(HANG_LENGTHS * length)
            except subprocess.TimeoutExpired:
                print(f"\nthe run hangs after a kill of its {victim}, see {place}/runs.log", flush=True)
                os.killpg(process.pid, signal.SIGKILL)
                return False
            if left := leaked(mark):
                print(f"\n{len(left)} processes outlive a kill of the run's {victim}: {left}", flush=True)
                return False
            if victim != "missed":
                done[victim] += 1
                stages_killed.update(busy)
            print(f"\r{sum(done.values())} of {kills} kills, {tables} tables", end="", file=sys.stderr, flush=True)
        if code == 0:
            found = outputs(place / "runs")
            # A report of fewer rows may stand beside the table's: what was made while the judge was dead.
            differing |= {name for name in expected if expected[name] != found.get(name)}
            tables += 1
            shutil.rmtree(place / "runs")
            if over:
                break
        elif over:
            print(f"a run without a kill failed, see {place}/runs.log", flush=True)
            return False
    took = time.monotonic() - started
    print(f"\n{sum(done.values())} kills ({_told(done)}) in {took:.0f} s; {tables} tables finished")
    print(f"stages that were being made when a kill came: {_told(stages_killed)}")
    print(f"outputs that differ from the undisturbed run: {len(differing)} {sorted(differing)[:5]}")
    shared = set(os.listdir("/dev/shm")) - shm
    print(f"left behind: no process, so no port either, and {len(shared)} shared-memory files")
    damaged = (place / "runs.log").read_text().count("its stage must be made again")
    print(f"sealed folders that a later run found not to be what their manifest says: {damaged}")
    shutil.rmtree(place)
    return not (differing or shared or damaged)


def _busy(runs: Path) -> list[str]:
    """Kinds of the stages that are unfinished now."""
    return [lock.parent.parent.name for lock in runs.glob("*/*/.lock") if not (lock.parent / "manifest.json").exists()]


def _told(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    fine = soak(int(given.get("kills", 20)), float(given.get("minutes", 10)), int(given.get("seed", 1)))
    sys.exit(0 if fine else 1)
