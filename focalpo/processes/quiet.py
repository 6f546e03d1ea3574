"""Keeps libraries from talking over the progress line, each for a reason."""

import logging
import os
import signal
import warnings

from focalpo.processes.lifeline import end_with


def quiet_worker(maker: int, cores: int) -> None:
    """For the processes of a pool: quiet, and ended with the process that made the pool.

    Its number is told: a parent that died while this process started is init by now, which never ends.
    """
    end_with(maker)
    quiet(cores)
    # Ctrl-C reaches every process of the terminal; this one waits for its maker's word, so that training can save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def quiet(cores: int) -> None:
    """Silence what is known and harmless, and use that many cores; for processes whose output a user sees."""
    import torch
    from transformers.utils import logging as transformers_logging

    # Ctrl-C reaches every process of the terminal: let this one die of it without a traceback of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # More threads than cores of our own would spend their time switching.
    torch.set_num_threads(max(1, cores))
    transformers_logging.set_verbosity_error()  # hints about generation flags that we set ourselves
    transformers_logging.disable_progress_bar()  # "loading weights", one bar per model of the table
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # one bar per split; read when it is imported
    # DeepSpeed 0.19 calls torch collectives by the names that torch 2.13 renames.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch.distributed.\w+` is deprecated")
    # DeepSpeed reports the accelerator it found and its configuration at every start.
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def cores_each(processes: int) -> int:
    """This machine's cores, shared fairly."""
    return max(1, (os.cpu_count() or 1) // processes)
