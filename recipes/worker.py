"""Make one stage: in this process, or in new ones. Whoever makes it, the folder says what it is.

python -m recipes.worker STAGE_FOLDER                  one process makes it
torchrun ... -m recipes.worker STAGE_FOLDER            several ranks make it; rank 0 holds the lock and seals

USR1 and TERM ask it to leave: training saves first. It then ends with code 75: start it again to go on.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from focalpo.artifact import ERROR, STOP, Damaged, Folder, Job, Stage, Stopped, told_disk_errors, verify
from focalpo.lifeline import end_with
from recipes.out_of_memory import told_out_of_memory
from recipes.quiet import cores_each, quiet

RANKED = ("sft", "reward", "reference", "train")
SAVING = ("sft", "train")
STACKS = ".stacks"
AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def make(runs: Path, stage: Stage) -> float:
    """Make a stage unless it is sealed already; returns the seconds it took, 0 when there was nothing to do."""
    folder = Folder(runs, stage)
    if folder.sealed:
        return 0.0
    ranks = folder.job.launch.get("ranks", 1) if stage.kind in RANKED else 1
    if ranks == 1 and not _keeps_memory(folder.job):
        return make_here(folder)
    started = time.monotonic()
    _in_new_processes(folder, ranks)
    return time.monotonic() - started


def make_here(folder: Folder, wait: bool = False) -> float:
    """Make a stage in this process and seal it.

    Raises:
        ValueError: when it cannot be made; the folder's `error.txt` says it too.
        Stopped: when a signal asked for it.
    """
    with folder.being_made(wait) as job:
        if folder.sealed:  # by whoever held the lock before us
            return 0.0
        (job.path / ERROR).unlink(missing_ok=True)
        try:
            for path in job.inputs.values():
                make_sound(path)
            started = time.monotonic()
            facts = recipe(job)
        except ValueError as error:
            (job.path / ERROR).write_text(f"{error}\n")
            raise
        seconds = time.monotonic() - started
        folder.seal(seconds, facts)
    return seconds


def make_sound(path: Path) -> None:
    """Make a sealed stage again when it is not what its manifest says; it is never used as it is."""
    with contextlib.suppress(Damaged):
        return verify(path)
    folder = Folder.at(path)
    with folder.being_made(wait=True):
        try:
            return verify(path)  # mended by whoever held the lock before us
        except Damaged as damage:
            print(damage, file=sys.stderr)
            folder.break_seal()
    make_here(folder)


def recipe(job: Job) -> dict:
    """Call the recipe of the job's kind."""
    with told_disk_errors(job.path), told_out_of_memory(job), _stopping(job):
        return _tracked(job, importlib.import_module(f"recipes.{job.kind}").make)


def _tracked(job: Job, make: Callable[[Job], dict]) -> dict:
    """Call `make`; the recipes of several ranks open their tracker themselves."""
    if job.kind in RANKED:
        return make(job)
    from recipes.opening import tracker_of

    with tracker_of(job) as tracker:
        facts = make(job)
        if tracker is not None:
            tracker.summary(facts)
    return facts


@contextlib.contextmanager
def _stopping(job: Job) -> Iterator[None]:
    """While open, USR1 and TERM stop the stage: training after its next step, saved; the others at once, since what
    they have done is recorded as they go or soon done again."""
    stop = job.path / ".checkpoints" / STOP

    def asked(number: int, frame: object) -> None:
        if job.kind not in SAVING:
            raise Stopped("asked to stop, run the same command again to go on")
        stop.parent.mkdir(exist_ok=True)
        stop.touch()

    if int(os.environ.get("RANK", "0")) == 0:
        stop.unlink(missing_ok=True)
    before = {number: signal.signal(number, asked) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keeps_memory(job: Job) -> bool:
    """Whether the stage would hold what the next one needs: GPU memory and vLLM's caches go back with their process."""
    import torch

    return torch.cuda.is_available() or job.settings.get("backend") == "vllm"


def _in_new_processes(folder: Folder, ranks: int) -> None:
    import torch

    job = folder.job
    threads = max(1, torch.get_num_threads() // ranks)  # this worker's share of the machine, and no other's
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "recipes.worker", str(job.path)]
    with told_disk_errors(job.path):
        job.path.mkdir(parents=True, exist_ok=True)
        job.write()
        log = job.path / "log.txt"
        with log.open("w") as file:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads), "FOCALPO_MAKER": str(os.getpid())}
            ended = subprocess.run(command, stdout=file, stderr=file, env=environment)
    if ended.returncode:
        raise ValueError(_why(job, log))


def _why(job: Job, log: Path) -> str:
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    if said:
        return said[-1].removeprefix("error: ")
    stacks = job.path / STACKS
    if any(stack.stat().st_size for stack in stacks.glob("*")):
        return (
            f"a step took longer than launch.hang_seconds={job.launch['hang_seconds']:g}; {stacks} holds the stack of "
            "each rank; the ranks were ended, run again to go on from the last checkpoint"
        )
    return f"{job.kind} failed, see the end of {log}"


def main(path: Path) -> None:
    """One process of a stage: the only one, or one rank of several."""
    if maker := os.environ.pop("FOCALPO_MAKER", None):
        end_with(int(maker))
    if "RANK" in os.environ:
        end_with(os.getppid())  # torchrun
    folder = Folder.at(path)
    job = folder.job
    quiet(int(os.environ.get("OMP_NUM_THREADS", cores_each(1))))
    if "RANK" in os.environ:
        from focalpo.training.ranks import watch

        (job.path / STACKS).mkdir(exist_ok=True)
        watch(job.launch["hang_seconds"], job.path / STACKS)
    if int(os.environ.get("RANK", "0")) == 0:
        make_here(folder, wait=True)
    else:
        recipe(job)


def leave(code: int) -> None:
    """End the process without the interpreter's shutdown: gloo's threads may still hold Python objects then, which
    aborts it now and then after all work is done and on disk."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        leave(AGAIN)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        leave(1)
    leave(0)
