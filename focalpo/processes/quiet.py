"""Silences library output that would disturb the progress line."""

import logging
import os
import signal
import warnings

from focalpo.processes.importing import importing, skip_unused_imports
from focalpo.processes.lifeline import end_with


def quiet_worker(parent: int, cores: int) -> None:
    """Prepare a worker process of a pool: quiet, and exiting with the process that created the pool.

    `parent` is the pid as the pool passes it, not os.getppid(): if the parent died while this process started, getppid
    is already init, which never exits.
    """
    end_with(parent)
    quiet(cores)
    # Ctrl-C reaches every process of the terminal; this one waits for its parent's signal, so that training can save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def quiet(cores: int) -> None:
    """Silence known, harmless library output and use `cores` threads; for processes whose output a user sees."""
    with importing():
        import torch
        from transformers.utils import logging as transformers_logging

        skip_unused_imports()
    # Ctrl-C reaches every process of the terminal: this one exits without printing a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # More threads than cores would only add context switches.
    torch.set_num_threads(max(1, cores))
    transformers_logging.set_verbosity_error()  # hints about generation flags that we set ourselves
    transformers_logging.disable_progress_bar()  # "loading weights", one bar per model of the table
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # one bar per split; read when it is imported
    # DeepSpeed 0.19 calls torch collectives by the names that torch 2.13 renames.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch.distributed.\w+` is deprecated")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found no other
    # DeepSpeed logs the detected accelerator and its configuration at every start.
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
