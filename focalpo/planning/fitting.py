"""Whether a training fits the GPUs it is planned for, and what does where it does not."""

from collections.abc import Iterator

import yaml

from focalpo.config.compose import CONF
from focalpo.planning.needs import Estimate, answers_of
from focalpo.stages.folder import Stage
from focalpo.training.memory import Memory

GIB = 1 << 30
USABLE = 0.9  # of a GPU's memory: the CUDA context, NCCL and the allocator's gaps take the rest
ADAPTERS = ("rank16", "qlora")  # with more and more memory saved
MOST_RANKS = 64


def advice(estimate: Estimate, stage: Stage) -> str | None:
    """One line when a training stage needs more than 90 % of a GPU: what fits instead, by the smallest change. None
    where it fits, or where it asks for no GPU."""
    launch = estimate.config.launch
    needed, most = estimate.memory(stage).total / GIB, USABLE * launch.gpu_gib
    if not launch.gpus or needed <= most:
        return None
    found = f"{needed:.0f} GiB is more than {USABLE:.0%} of a GPU (launch.gpu_gib={launch.gpu_gib:g})"
    for change, changed in _changes(estimate, stage):
        if changed.total / GIB <= most:
            host = f", and {changed.host / GIB:.0f} of the host's memory for each GPU" if changed.host else ""
            return f"{found}; with {change} it is {changed.total / GIB:.0f}{host}"
    return f"{found}, and nothing that can be set makes it fit: use GPUs with more memory, or a smaller model"


def _changes(estimate: Estimate, stage: Stage) -> Iterator[tuple[str, Memory]]:
    """Other ways to run the stage with the memory of a rank: smaller micro-batches, the optimizer's states on the host,
    ranks that share micro-batches, adapters, then more GPUs."""
    lora = stage.settings.get("lora")
    sharded = stage.launch["train"]["offload_optimizer"] or "optimizer" in stage.settings["train"]
    for execution in _smaller(estimate, stage):
        yield _cheapest(estimate, stage, (1, 2) if lora else (3,) if sharded else (1, 2, 3), execution)
    if not lora and not sharded:
        for execution in _smaller(estimate, stage):
            yield _cheapest(estimate, stage, (3,), execution | {"offload_optimizer": True})
    *_, smallest = _smaller(estimate, stage)
    for together in range(2, estimate.shape.kv_heads + 1):
        if stage.launch["ranks"] % together == 0 and estimate.shape.kv_heads % together == 0:
            yield _cheapest(estimate, stage, (1, 2) if lora else (3,), smallest | {"sequence_ranks": together})
    if stage.kind == "train" and not lora and "optimizer" not in stage.settings["train"]:
        for name in ADAPTERS:
            adapters = yaml.safe_load((CONF / f"lora/{name}.yaml").read_text())
            for execution in _smaller(estimate, stage):
                own = execution | {"offload_optimizer": False}
                change, memory = _cheapest(estimate, stage, (1, 2), own, lora=adapters)
                yield f"lora={name} {change}".strip(), memory
    ranks = 2 * stage.launch["ranks"]
    while ranks <= min(MOST_RANKS, stage.settings["train"]["global_batch"]):
        change, memory = _cheapest(estimate, stage, (1, 2) if lora else (3,), {}, ranks=ranks)
        yield f"launch.gpus={ranks} launch.ranks={ranks} {change}".strip(), memory
        ranks *= 2


def _smaller(estimate: Estimate, stage: Stage) -> Iterator[dict]:
    """The planned micro-batch and ever smaller ones, as long as any pair fits; then with activations recomputed."""
    how, longest = stage.launch["train"], estimate.lengths.longest(answers_of(stage))
    for recompute in sorted({how["activation_checkpointing"], True}):
        tokens = how["micro_batch_tokens"]
        while tokens >= longest or tokens == how["micro_batch_tokens"]:
            yield {"micro_batch_tokens": tokens, "activation_checkpointing": recompute}
            tokens //= 2


def _cheapest(estimate: Estimate, stage: Stage, zero: tuple[int, ...], execution: dict, **others) -> tuple[str, Memory]:
    """The ZeRO stage that needs least, written as overrides, with the memory of a rank."""
    how = stage.launch["train"]
    tried = [execution | {"zero_stage": number} for number in zero]
    chosen = min(tried, key=lambda each: estimate.memory(stage, **others, **each).total)
    changed = [f"train.{name}={str(value).lower()}" for name, value in chosen.items() if value != how[name]]
    return " ".join(changed), estimate.memory(stage, **others, **chosen)
