"""What the ranks of test_reading_once.py run: torchrun -m tests.reading_cases MODEL OUT train|resume.

train     each case to the end, saving half way, then again from there
resume    what that checkpoint gives on other ranks
OUT/<what>-<case>.pt    the tensors that each rank read, and whether weights and moments are those of the files
OUT/loaded.pt           of the start model in ZeRO-3: the parameters that each rank copied from the file, and holds

A case is `dtype,zero_stage,full|qlora`.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from transformers import modeling_utils

from focalpo.processes.lifeline import leave
from focalpo.training import checkpoint, reading
from focalpo.training import engine as engines
from focalpo.training.engine import Examples, open_engine, partitioned_loading, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.lora import add_adapters
from focalpo.training.model import ModelSource, load_model
from focalpo.training.objective import OBJECTIVES
from focalpo.training.ranks import device, gather, rank
from focalpo.training.settings import DENSE, LoraSettings, TrainSettings
from tests.rank_cases import exported, gathering
from tests.tiny import SETTINGS, random_trees

CASES = ["float32,0,full", "bfloat16,1,full", "bfloat16,1,qlora", "float32,2,full", "bfloat16,3,full"]
ADAPTERS = LoraSettings(rank=4, alpha=8, targets=["q_proj", "v_proj", "up_proj"], quantization="nf4")
TREES = random_trees(16, seed=7)
read: list[str] = []


class Counted:
    """safetensors' own reader, which notes every tensor whose bytes are asked for."""

    opened = staticmethod(reading.safe_open)

    def __init__(self, path: Path, framework: str) -> None:
        self.file = self.opened(path, framework)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def get_tensor(self, name: str) -> torch.Tensor:
        read.append(name)
        return self.file.get_tensor(name)


def main() -> None:
    model, out, what = sys.argv[1:]
    start_ranks()
    usual = engines.deepspeed_config
    engines.deepspeed_config = lambda *args: gathering(usual(*args))
    checkpoint.PART_BYTES = 1 << 10  # many parts
    for case in CASES:
        with patch.object(reading, "safe_open", Counted):
            found = (trained if what == "train" else resumed)(Path(model), Path(out) / case, case)
        if rank() == 0:
            torch.save(found, Path(out) / f"{what}-{case}.pt")
    if what == "train":
        loaded = gather(loading(Path(model)))
        if rank() == 0:
            torch.save(loaded, Path(out) / "loaded.pt")


def loading(model: Path) -> dict:
    """What this rank takes of a model's file while ZeRO-3 partitions it."""
    copied, mapped = 0, []
    copy, load = torch.nn.Module._load_from_state_dict, modeling_utils._load_state_dict_into_zero3_model

    def counted(module, state: dict, prefix: str, *rest: object) -> None:
        nonlocal copied
        copied += sum(state[prefix + name].numel() for name in module._parameters if prefix + name in state)
        copy(module, state, prefix, *rest)

    def checked(into, state: dict, *rest: object):
        mapped.extend(in_file(value, model / "model.safetensors") for value in state.values())
        return load(into, state, *rest)

    torch.nn.Module._load_from_state_dict = counted
    modeling_utils._load_state_dict_into_zero3_model = checked
    with partitioned_loading(replace(SETTINGS, dtype="bfloat16", zero_stage=3)):
        parameters = list(load_model(ModelSource(str(model)), "bfloat16", device()).parameters())
    held = sum(each.ds_tensor.numel() + each.data.numel() for each in parameters)
    return {"copied": copied, "mapped": all(mapped), "held": held, "all": sum(each.ds_numel for each in parameters)}


def in_file(tensor: torch.Tensor, path: Path) -> bool:
    """Whether a tensor is a view of the file's pages, which are read when they are used."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = (int(each, 16) for each in line.split()[0].split("-"))
            if start <= tensor.data_ptr() < end:
                return True
    return False


def engine_of(model: Path, case: str) -> tuple[object, TrainSettings]:
    dtype, zero_stage, kind = case.split(",")
    settings = replace(SETTINGS, dtype=dtype, zero_stage=int(zero_stage), checkpoint_every=2)
    quantization = ADAPTERS.quantization if kind == "qlora" else DENSE
    with partitioned_loading(settings):
        loaded = load_model(ModelSource(str(model)), dtype, device(), quantization)
    if kind == "qlora":
        add_adapters(loaded, ADAPTERS, seed=1)
    return open_engine(PackedPolicy(loaded), settings), settings


def trained(model: Path, folder: Path, case: str) -> dict:
    """Train twice: the second time starts from the checkpoint that the first has left."""
    ends = []
    for _ in range(2):
        engine, settings = engine_of(model, case)
        read.clear()
        train(engine, OBJECTIVES["sft"](), Examples(TREES, {}, []), settings, seed=5, checkpoints=folder)
        ends.append(exported(engine, settings))
    equal = all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    return {"read": gather(list(read)), "equal": equal}


def resumed(model: Path, folder: Path, case: str) -> dict:
    """Resume, and compare with the files what the ranks hold together."""
    engine, settings = engine_of(model, case)
    (marker,) = folder.glob("step-*/complete")
    read.clear()
    step = checkpoint.resume(engine, folder, json.loads(marker.read_text())["run"])
    files = {name: value for part in marker.parent.glob("*.safetensors") for name, value in load_file(part).items()}
    whole = {
        f"{kind}.{name}": checkpoint._whole(engine, parameter, None if kind == "weights" else kind)
        for name, parameter in checkpoint._trained(engine)
        for kind in ("weights", *checkpoint.MOMENTS)
    }
    equal = step == 2 and whole.keys() == files.keys()
    equal &= all(torch.equal(value, files[name]) for name, value in whole.items())
    for name, value in exported(engine, settings).items():  # what the next forward pass computes with
        if (saved := files.get(f"weights.model.{name}")) is not None:
            equal &= torch.equal(value, saved.to(getattr(torch, settings.dtype)).float())
    return {"read": gather(list(read)), "equal": equal}


if __name__ == "__main__":
    main()
    leave()
