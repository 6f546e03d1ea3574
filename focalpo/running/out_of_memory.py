"""Explain out-of-memory errors: how much memory was used and which settings to lower."""

import contextlib
from collections.abc import Iterator

from focalpo.stages.folder import Job
from focalpo.stages.memory import is_out_of_memory, resident_peak

GIB = 1 << 30


@contextlib.contextmanager
def explaining_out_of_memory(job: Job) -> Iterator[None]:
    """Turn an out-of-memory error into a message for the user.

    Raises:
        ValueError: in place of the original error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{job.kind} ran out of memory: {_used()}; lower {_what_to_lower(job)}") from error


def _used() -> str:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        peak = torch.cuda.max_memory_allocated()
        return f"{peak / GIB:.1f} GiB of tensors at the peak, {free / GIB:.1f} of {total / GIB:.1f} GiB of the GPU free"
    return f"{resident_peak() / GIB:.1f} GiB in this process at the peak"


def _what_to_lower(job: Job) -> str:
    group = "train" if "train" in job.launch else "reference"
    knobs = {
        "micro_batch_tokens": f"{group}.micro_batch_tokens={{}} (activations shrink with it)",
        "batch_tokens": "reference.micro_batch_tokens={}",  # of a reward model
        "max_batch_tokens": "generate.max_batch_tokens={}",
    }
    launch = job.launch | job.launch.get("train", {})
    lower = [text.format(launch[name]) for name, text in knobs.items() if name in launch]
    if launch.get("activation_checkpointing") is False:
        lower.append("activations by train.activation_checkpointing=true")
    if launch.get("zero_stage", 3) < 3 and launch.get("ranks", 1) > 1:
        lower.append(f"states per rank by train.zero_stage=3 (it is {launch['zero_stage']})")
    return "; or ".join([*lower, "launch.workers"])
