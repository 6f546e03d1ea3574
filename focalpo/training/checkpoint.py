"""Save and resume a run on any number of ranks, and export its weights as an ordinary Hugging Face folder.

.checkpoints/step-000040/   part-<rank>-<n>.safetensors   complete (written last: step, run, sha256 of every part)
.checkpoints/stop           create this file to ask the run to save and exit
.checkpoints/saves          exists while the run would do so

One format for all layouts: fp32 weights and Adam's two moments of every trained parameter, unpartitioned and by name.
Ranks share the writing and the reading; a run may resume on fewer or more ranks and in another ZeRO stage, unless its
moments are in 8 bit: see `eight_bit`. Nothing is pickled.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from focalpo.data.tokens import template_hash
from focalpo.stages.folder import SAVES, STOP, Stopped, file_hash, write_json
from focalpo.training.eight_bit import RAW, in_8_bit, keep_moments, moments_of, put_moments
from focalpo.training.ranks import alive, at_rest, barrier, device, gather, rank, sum_over_ranks, world
from focalpo.training.reading import read_once, shared_out

COMPLETE = "complete"
MOMENTS = ("exp_avg", "exp_avg_sq")
PART_BYTES = 1 << 31  # a rank writes a part once it holds more than this in host memory


def fingerprint(*what: object) -> str:
    """Return a hash that identifies a run: only the run that saved a checkpoint may resume from it."""
    return hashlib.sha256(repr(what).encode()).hexdigest()


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Mark the run, by the file `saves`, as one that must not be killed when it is asked to stop.

    The mark stays after the last step, until the stage is sealed: what is exported then has not been saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SAVES).touch()
    with contextlib.ExitStack() as on_error:
        on_error.callback((folder / SAVES).unlink, missing_ok=True)
        yield
        on_error.pop_all()


def leave_if_asked(engine, folder: Path, step: int, run: str, saved: int) -> None:
    """Save and leave the run if it was asked to stop; every rank must call it.

    Args:
        step: optimizer steps taken; gradients accumulated since then are recomputed after resuming.
        saved: the step of the newest checkpoint; if it equals `step`, nothing is written.

    Raises:
        Stopped: when the run was asked to stop, after saving.
    """
    asked = (folder / STOP).exists()
    if world() > 1:  # they may see the file at different moments and must leave at the same step
        asked = bool(sum_over_ranks(torch.tensor(float(asked), device=device())) > 0)
    if asked:
        if not step:
            raise Stopped("asked to stop before the first step, run the same command again")
        if step > saved:
            save(engine, folder, step, run)
        raise Stopped(f"asked to stop; saved after step {step}, run the same command again to resume")


def save(engine, folder: Path, step: int, run: str) -> None:
    """Save weights and optimizer after `step` steps of `run` (any string that identifies it), then delete older
    checkpoints. The data order is not saved: it is a function of the step."""
    path = folder / f"step-{step:06d}"
    if rank() == 0:
        shutil.rmtree(path, ignore_errors=True)  # left by a run that was killed while saving
        path.mkdir(parents=True)
    barrier()
    hashes = {part.name: file_hash(part) for part in _write_parts(engine, path)}
    files = {name: value for hashed in gather(hashes) for name, value in hashed.items()}
    if rank() == 0:
        write_json(path / COMPLETE, {"run": run, "step": step, "files": files})
        for other in folder.glob("step-*"):
            if other.name != path.name:
                shutil.rmtree(other)
    barrier()


def resume(engine, folder: Path, run: str) -> int:
    """Load the newest complete, intact checkpoint and return its step, or 0 if there is none.

    Raises:
        ValueError: when the checkpoint belongs to another run.
    """
    for path in sorted((complete.parent for complete in folder.glob(f"step-*/{COMPLETE}")), reverse=True):
        saved = _saved(path / COMPLETE)
        if saved and saved["run"] != run:
            raise ValueError(f"{path} was saved by a run with other settings; delete {folder} and run again")
        broken = _broken(path, saved)
        if saved and not broken:
            _load(engine, path, sorted(saved["files"]), saved["step"])
            return int(saved["step"])
        if rank() == 0:
            reason = "is empty or cut off" if broken == [COMPLETE] else "is not what was saved (sha256 differs)"
            print(f"{path / broken[0]} {reason}; the checkpoint is not used", file=sys.stderr)
            shutil.rmtree(path)
        barrier()
    return 0


def _broken(path: Path, saved: dict | None) -> list[str]:
    """The files of a checkpoint that are not what was saved, as all ranks see them."""
    if not all(gather(saved is not None)):
        return [COMPLETE]
    assert saved
    # Of each part the rank that will load it: a part that was just read is still in its host's page cache.
    mine = shared_out([path / name for name in sorted(saved["files"])])
    broken = [part.name for part in mine if not _intact(part, saved["files"][part.name])]
    return [name for names in gather(broken) for name in names]


def _saved(marker: Path) -> dict | None:
    """What a checkpoint's marker says; None when it is not whole: losing power may leave a file's name only."""
    try:
        saved = json.loads(marker.read_bytes())
    except ValueError:  # not JSON, or not UTF-8
        return None
    kinds = {"run": str, "step": int, "files": dict}
    whole = isinstance(saved, dict) and all(isinstance(saved.get(name), kind) for name, kind in kinds.items())
    return saved if whole else None


def _intact(part: Path, expected: str) -> bool:
    return part.is_file() and file_hash(part) == expected


def _write_parts(engine, path: Path) -> Iterator[Path]:
    """Write this rank's share of the state by name, one part at a time."""
    share: dict[str, Tensor] = {}
    size = number = 0
    loads = [0] * world()
    raw = in_8_bit(engine.basic_optimizer)
    for name, parameter in _trained(engine):
        owner = loads.index(min(loads))
        for kind in ("weights",) if raw else ("weights", *MOMENTS):
            whole = _whole(engine, parameter, None if kind == "weights" else kind)  # collective: every rank takes part
            loads[owner] += whole.numel()
            if owner == rank():
                share[f"{kind}.{name}"] = whole.detach().cpu().contiguous()
                size += whole.numel() * whole.element_size()
        alive()
        if size > PART_BYTES:
            yield _write(share, path / f"part-{rank()}-{number}.safetensors")
            share, size, number = {}, 0, number + 1
    if raw:
        share |= moments_of(engine.basic_optimizer, fp32_weights(engine))
    if share:
        yield _write(share, path / f"part-{rank()}-{number}.safetensors")


def _write(tensors: dict[str, Tensor], path: Path) -> Path:
    save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # the older checkpoint is deleted next, so this one must survive a crash
    return path


def _load(engine, path: Path, parts: list[str], step: int) -> None:
    parameters, raw = dict(_trained(engine)), {}
    if not in_8_bit(engine.basic_optimizer):
        _init_moments(engine, step)
    for key, value in read_once([path / part for part in parts]):
        kind, _, name = key.partition(".")
        if kind == RAW:
            keep_moments(raw, key, value)
        else:
            _put(engine, parameters[name], value, None if kind == "weights" else kind)
        alive()
    if in_8_bit(engine.basic_optimizer):
        put_moments(engine.basic_optimizer, fp32_weights(engine), raw, step, path)


def _trained(engine) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)


def _plain(engine) -> bool:
    """Whether the optimizer updates the parameters themselves (ZeRO-0) instead of its own copies."""
    return engine.optimizer is engine.basic_optimizer


def _whole(engine, parameter: torch.nn.Parameter, moment: str | None) -> Tensor:
    """Gather the fp32 weights of a parameter, or one of its moments, from all ranks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if _plain(engine):
        return engine.optimizer.state[parameter][moment] if moment else parameter
    whole = safe_get_full_optimizer_state(parameter, moment) if moment else safe_get_full_fp32_param(parameter)
    return whole.view(getattr(parameter, "ds_shape", parameter.shape))


@torch.no_grad()
def _put(engine, parameter: torch.nn.Parameter, value: Tensor, moment: str | None) -> None:
    """Give every rank its share of what `_whole` returned, and set the model's own weights from the fp32 ones."""
    if engine.zero_optimization_stage() == 3:
        _put_partition(parameter, value, moment)
    elif _plain(engine):
        (engine.optimizer.state[parameter][moment] if moment else parameter).copy_(value)
    else:
        parameter.set_full_hp_param(value.to(parameter.device), moment)  # type: ignore[attr-defined]  # DeepSpeed's
        if moment is None:
            parameter.copy_(value)


def _put_partition(parameter: torch.nn.Parameter, value: Tensor, moment: str | None) -> None:
    from deepspeed import zero
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param, safe_set_local_optimizer_state

    length = safe_get_local_fp32_param(parameter).numel()
    padded = torch.nn.functional.pad(value.flatten(), (0, length * world() - value.numel()))
    mine = padded[rank() * length : (rank() + 1) * length]
    if moment:
        safe_set_local_optimizer_state(parameter, mine, moment)
        return
    safe_set_local_fp32_param(parameter, mine)
    with zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(value)


def fp32_weights(engine) -> list[Tensor]:
    """Return the weights that this rank's optimizer updates: in ZeRO 1 to 3 its flat shares of the fp32 copies."""
    if engine.zero_optimization_stage() == 3:
        return engine.optimizer.fp32_partitioned_groups_flat
    return [parameter for group in engine.basic_optimizer.param_groups for parameter in group["params"]]


def _init_moments(engine, step: int) -> None:
    """Create Adam's state as after `step` steps, with zero moments: torch creates it only at the first step."""
    optimizer = engine.basic_optimizer
    for parameter in fp32_weights(engine):
        # As in torch, a fused optimizer counts its steps on the GPU, any other on the CPU.
        device = parameter.device if optimizer.defaults["fused"] else "cpu"
        moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(step), device=device), **moments}
    if not _plain(engine) and engine.zero_optimization_stage() < 3:
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def export(engine, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig, folder: Path, card: str) -> None:
    """Write the policy as a folder that `AutoModelForCausalLM.from_pretrained` loads (see `write_folder`). Every rank
    must call it; rank 0 writes."""
    at_rest()
    policy = engine.module
    prefix = "model."
    if engine.zero_optimization_stage() == 3:
        state = engine._zero3_consolidated_16bit_state_dict()
        state = {name.removeprefix(prefix): value for name, value in (state or {}).items()}
    else:
        state = policy.model.state_dict()
    if rank() == 0:
        policy.model.generation_config = generation
        write_folder(policy.model, state, tokenizer, folder, card)
    barrier()


def write_folder(
    model: PreTrainedModel, state: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, folder: Path, card: str
) -> None:
    """Write the weights `state` of a model (safetensors), its configurations, its tokenizer, a model card and the chat
    template's hash."""
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card)
    (folder / "focalpo.json").write_text(json.dumps({"chat_template_sha256": template_hash(tokenizer)}) + "\n")


def model_card(title: str, settings: dict, start: str) -> str:
    """Return a model card that documents how the weights were made."""
    described = json.dumps(settings, indent=1, sort_keys=True)
    return f"""---
library_name: transformers
tags: [preference-optimization, {settings.get("objective", {}).get("name", "sft")}]
---
# {title}

Started from `{start}` and trained by the FocalPO reproduction with:

```json
{described}
```

Torch {torch.__version__}. The run's manifest and report say how the model was evaluated and what it may be used for.
"""
