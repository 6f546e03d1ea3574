"""What a table needs of the machine, checked before anything starts."""

import os
from importlib.util import find_spec

import torch

from focalpo.schema import Config, TableConfig


def unmet(table: TableConfig, config: Config) -> str | None:
    """One screen of what is missing and what the table needs, or None when it can start here."""
    missing = []
    gpus = torch.cuda.device_count()
    if gpus < config.launch.gpus:
        missing.append(f"{config.launch.gpus} GPUs, this machine has {gpus}")
    if config.generate.backend == "vllm" and find_spec("vllm") is None:
        missing.append("vllm: make setup EXTRAS=dev,vllm")
    key = config.judge.endpoint.api_key_env
    if key and not os.environ.get(key):
        missing.append(f"a judge key in the environment variable {key}")
    if not missing:
        return None
    needs = "\n".join(f"  {name:<12} {value}" for name, value in table.needs.items())
    return (
        f"the {table.scale} table cannot run here, nothing was started\n"
        + "".join(f"  missing      {line}\n" for line in missing)
        + f"what it needs\n{needs}\n"
        + "the same code runs everywhere: make reproduce-table1 SCALE=pocket needs none of this"
    )
