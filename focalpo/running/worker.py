"""Make one stage: in this process, or in new ones. Whoever makes it, the folder says what it is.

python -m focalpo.running.worker STAGE_FOLDER                  one process makes it
torchrun ... -m focalpo.running.worker STAGE_FOLDER            several ranks make it; rank 0 holds the lock and seals

USR1 and TERM ask it to leave: training saves first. It then ends with code 75: start it again to go on.
"""

import importlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from focalpo.processes.lifeline import end_with
from focalpo.processes.quiet import cores_each, quiet
from focalpo.running.launching import STACKS, in_new_processes
from focalpo.running.out_of_memory import explaining_out_of_memory
from focalpo.running.stopping import stopping
from focalpo.stages.folder import ERROR, Damaged, Folder, Job, Stage, Stopped, explaining_disk_errors, verify

RANKED = ("sft", "reward", "reference", "train")
AGAIN = 75  # EX_TEMPFAIL of sysexits.h
RANKS_WAIT = 60.0  # seconds for a lock: the other ranks wait too, and not for ever


def make(runs: Path, stage: Stage) -> float:
    """Make a stage unless it is sealed already; returns the seconds it took, 0 when there was nothing to do."""
    return _make(Folder(runs, stage))


def _make(folder: Folder, patience: float = 1.0) -> float:
    if folder.sealed:
        return 0.0
    ranks = folder.job.launch.get("ranks", 1) if folder.job.kind in RANKED else 1
    if ranks == 1 and not _keeps_memory(folder.job):
        return make_here(folder, patience)
    started = time.monotonic()
    for path in folder.job.inputs.values():
        repair(path)
    in_new_processes(folder.job, ranks)
    return time.monotonic() - started


def repair(path: Path) -> None:
    """Make an input again when it is not what its manifest says; it is never used as it is."""
    if _break_if_damaged(path):
        _make(Folder.at(path), math.inf)


def make_here(
    folder: Folder,
    patience: float = 1.0,
    check: Callable[[Path], None] = repair,
    agree: Callable[[bool], object] = lambda go: None,
) -> float:
    """Make a stage in this process and seal it.

    Args:
        patience: seconds to wait for another process that makes it.
        check: what is done with each input before it is read.
        agree: told, once the lock is ours and the inputs are sound, whether there is anything to make.

    Raises:
        ValueError: when it cannot be made; the folder's `error.txt` says it too.
        Stopped: when a signal asked for it.
    """
    with folder.being_made(patience) as job:
        if folder.sealed:  # by whoever held the lock before us
            agree(False)
            return 0.0
        (job.path / ERROR).unlink(missing_ok=True)
        try:
            for path in job.inputs.values():
                check(path)
            agree(True)
            started = time.monotonic()
            facts = recipe(job)
        except ValueError as error:
            (job.path / ERROR).write_text(f"{error}\n")
            raise
        seconds = time.monotonic() - started
        folder.seal(seconds, facts)
    return seconds


def refuse_damaged(path: Path) -> None:
    """As `repair`, for a job that is not made for its inputs' work: it has other GPUs, or ranks that wait.

    Raises:
        ValueError: when the input is not what its manifest says; then it is unfinished from now on.
    """
    if why := _break_if_damaged(path):
        raise ValueError(f"{why}; run the command that submitted this job again")


def _trust(path: Path) -> None:
    """For a process whose maker has looked at the input."""


def _break_if_damaged(path: Path) -> str | None:
    """What is wrong with a folder, if anything; its seal is broken then."""
    if not _damage(path):
        return None
    folder = Folder.at(path)
    with folder.being_made(math.inf):
        damage = _damage(path)  # none any more when whoever held the lock before us has mended it
        if damage and folder.sealed:
            print(damage, file=sys.stderr)
            folder.break_seal()
        return damage


def _damage(path: Path) -> str | None:
    try:
        verify(path)
    except Damaged as damage:
        return str(damage)
    return None


def recipe(job: Job) -> dict:
    """Call the recipe of the job's kind."""
    with explaining_disk_errors(job.path), explaining_out_of_memory(job), stopping(job):
        return _tracked(job, importlib.import_module(f"recipes.{job.kind}").make)


def _tracked(job: Job, make: Callable[[Job], dict]) -> dict:
    """Call `make`; the recipes of several ranks open their tracker themselves."""
    if job.kind in RANKED:
        return make(job)
    from focalpo.running.tracking import tracker_of

    with tracker_of(job) as tracker:
        facts = make(job)
        if tracker is not None:
            tracker.summary(facts)
    return facts


def _keeps_memory(job: Job) -> bool:
    """Whether the stage would hold what the next one needs: GPU memory and vLLM's caches go back with their process."""
    import torch

    return torch.cuda.is_available() or job.settings.get("backend") == "vllm"


def main(path: Path) -> None:
    """One process of a stage: the only one, or one rank of several."""
    maker, ranked = os.environ.pop("FOCALPO_MAKER", None), "RANK" in os.environ
    if maker:
        end_with(int(maker))
    if ranked:
        end_with(os.getppid())  # torchrun
    folder = Folder.at(path)
    job = folder.job
    quiet(int(os.environ.get("OMP_NUM_THREADS", cores_each(1))))
    check = repair
    if maker:
        check = _trust
    elif ranked or "SLURM_JOB_ID" in os.environ:
        check = refuse_damaged
    if not ranked:
        make_here(folder, math.inf, check)
        return
    from focalpo.training.ranks import watch

    (job.path / STACKS).mkdir(exist_ok=True)
    watch(job.launch["hang_seconds"], job.path / STACKS)
    if os.environ["RANK"] == "0":
        make_here(folder, RANKS_WAIT, check, _agree)
    elif _agree(False):
        recipe(job)


def _agree(go: bool) -> bool:
    """Whether rank 0 says that there is something to make: the others start nothing that it would not join."""
    import torch

    from focalpo.training.engine import start_ranks
    from focalpo.training.ranks import device, sum_over_ranks

    start_ranks()
    return bool(sum_over_ranks(torch.tensor(float(go), device=device())) > 0)


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
