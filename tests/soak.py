"""Kill a small table at random, again and again, and compare all outputs with those of an undisturbed run.

python -m tests.soak kills=20 minutes=10 seed=1

Every kill draws a moment and a victim: the whole process group, the command alone, or any of its descendants (a worker,
the judge's server). When a table is complete, every sealed output is compared, byte for byte, and the next table starts
from scratch. Stops after the given number of kills or minutes, whichever comes first, and exits with 1 when anything
differed or was left behind.
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
# These contain seconds, dates or the order of replies, so they differ between equal runs.
VARYING = ("records.jsonl", "report.html", "report.md", "report.tex", "checklist.md")
GRACE_SECONDS = 30
HANG_LENGTHS = 10  # of an undisturbed run
MARK = "FOCALPO_SOAK"
VARYING_FACTS = ("calls", "sentinel")


def start(runs: Path, mark: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "recipes.reproduce", f"runs={runs}", *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: mark}
    with (runs.parent / f"{runs.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def marked(mark: str) -> list[int]:
    """Live processes that one of our runs started, whatever their parent is by now."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}\0".encode() in (path / "environ").read_bytes():
                pids.append(int(path.name))
        except OSError:
            continue
    return pids


def outputs(runs: Path) -> dict[str, str]:
    """The hash of every sealed output; for a folder that does not match its manifest, also the damage.

    A manifest's facts are included, except for the numbers of calls, which kills change, and for those of the sentinel:
    which stage was the judge's first depends on who ended first.
    """
    found = {}
    for manifest in sorted(runs.glob("*/*/manifest.json")):
        folder, stage = manifest.parent, f"{manifest.parent.parent.name}/{manifest.parent.name}"
        try:
            verify(folder)
        except Damaged as damage:
            found[stage] = str(damage)
        content = read_manifest(folder)
        found |= {f"{stage}/{name}": value for name, value in content["outputs"].items() if name not in VARYING}
        facts = {name: value for name, value in content["facts"].items() if name not in VARYING_FACTS}
        found[f"{stage} facts"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return found


def strike(process: subprocess.Popen, mark: str, draw: random.Random) -> str:
    """Kill some process of the run and return which."""
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
            return victim  # the stage continues without it, or fails and is reported
    return victim


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def leaked(mark: str) -> list[int]:
    """Processes that outlive their run by more than the grace period."""
    deadline = time.monotonic() + GRACE_SECONDS
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    return marked(mark)


def soak(kills: int, minutes: float, seed: int) -> bool:
    """Run the soak test; returns whether nothing differed and nothing was left behind."""
    draw, started = random.Random(seed), time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    shm, done, tables = set(os.listdir("/dev/shm")), Counter(), 0
    differing: set[str] = set()
    mark = f"{os.getpid()}"
    # In the same folder as the other runs: a model card names the path of its start model.
    assert start(place / "runs", mark).wait() == 0, f"the undisturbed run failed, see {place}"
    expected, length = outputs(place / "runs"), time.monotonic() - started
    shutil.rmtree(place / "runs")
    print(f"undisturbed: {len(expected)} outputs in {length:.0f} s", flush=True)
    stages_killed = Counter()
    # At the limits the last table is still finished, undisturbed: an unfinished one proves nothing.
    while True:
        last = sum(done.values()) >= kills or time.monotonic() - started > 60 * minutes
        process = start(place / "runs", mark)
        try:
            code = process.wait(HANG_LENGTHS * length if last else draw.uniform(1, length / 2))
        except subprocess.TimeoutExpired:
            if last:
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
            # A report of fewer rows, written while the judge was dead, may exist beside the table's.
            differing |= {name for name in expected if expected[name] != found.get(name)}
            tables += 1
            shutil.rmtree(place / "runs")
            if last:
                break
        elif last:
            print(f"a run without a kill failed, see {place}/runs.log", flush=True)
            return False
    seconds = time.monotonic() - started
    print(f"\n{sum(done.values())} kills ({_counts(done)}) in {seconds:.0f} s; {tables} tables finished")
    print(f"stages that were running at a kill: {_counts(stages_killed)}")
    print(f"outputs that differ from the undisturbed run: {len(differing)} {sorted(differing)[:5]}")
    shared = set(os.listdir("/dev/shm")) - shm
    print(f"left behind: no process, hence no port, and {len(shared)} shared-memory files")
    damaged = (place / "runs.log").read_text().count("its stage must run again")
    print(f"sealed folders that a later run found not to match their manifest: {damaged}")
    shutil.rmtree(place)
    return not (differing or shared or damaged)


def _busy(runs: Path) -> list[str]:
    """Kinds of the stages that are unfinished now."""
    return [lock.parent.parent.name for lock in runs.glob("*/*/.lock") if not (lock.parent / "manifest.json").exists()]


def _counts(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    passed = soak(int(given.get("kills", 20)), float(given.get("minutes", 10)), int(given.get("seed", 1)))
    sys.exit(0 if passed else 1)
