"""The training loop: DeepSpeed on 1..n ranks, ZeRO 0-3, CPU or GPU, independent of the loss.

    order -> global batch -> deal -> micro-batches -> logps -> objective -> backward ... -> one optimizer step

The global batch is the scientific quantity: the gradient is the mean over its pairs for any number of ranks and
micro-steps, up to the rounding of train.dtype, in which DeepSpeed accumulates gradients. Data order and learning rate
are pure functions of the step, so a resumed run needs only the step.
"""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from focalpo.stages.memory import keep_freed
from focalpo.stages.rankings import right
from focalpo.training import checkpoint, nonfinite
from focalpo.training.buffers import restore_buffers, uncast_buffers
from focalpo.training.eight_bit import adamw8bit
from focalpo.training.inputs import Examples, logps_of, of_global_batch, scored_by
from focalpo.training.kernels import use_kernels
from focalpo.training.logprobs import Asked, PackedPolicy, Scores
from focalpo.training.objective import Logps
from focalpo.training.packing import Batcher, MicroBatch
from focalpo.training.ranks import alive, device, rank, sum_over_ranks, world
from focalpo.training.sequence import part_of
from focalpo.training.settings import EXECUTION, TrainSettings
from focalpo.training.steps import global_batch_at, learning_rate_at, steps_of
from focalpo.training.unpaired import answers_by_branch, of_answers, unpaired_metrics
from focalpo.training.watch import Watch

# How long ranks wait for each other in our own collectives: the others wait while rank 0 writes the exported weights.
EXPORT_TIME = timedelta(hours=1)


class Follower(Protocol):
    """Receives every step: a stage's tracker or a benchmark's stopwatch."""

    def resume_at(self, step: int) -> None: ...

    def log(self, step: int, **values: float) -> None: ...

    def progress(self, done: int, total: int, **values: float) -> None: ...


def start_ranks() -> None:
    """Join the process group that the launcher described, or create a group of one."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it in a group of one too
    if torch.distributed.is_initialized():
        return
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        keep_freed()
    import deepspeed

    # Without a GPU, DeepSpeed would compile a shared-memory collective at run time, which needs a C++ compiler and half
    # a minute and leaves files in /dev/shm; gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)  # INFO prints the configuration on every start
    # Its bf16 optimizer prints the memory in use, and resets the peak that `recipes.calibrate` reads.
    deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda message, force=False: None
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "MASTER_ADDR" not in os.environ:
        # An in-process store: a group of one needs no port, so it cannot fail because a port is in use.
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=EXPORT_TIME)


def deepspeed_config(settings: TrainSettings) -> dict:
    """Return the DeepSpeed configuration. We do the batching: each engine call is one micro-batch of size one."""
    # DeepSpeed's plain bf16 optimizer hides its fp32 weights from checkpoints; stage 1 computes the same.
    stage = settings.zero_stage or int(settings.dtype == "bfloat16")
    # fp32 weights, moments and sums of gradients in pinned host memory, where torch's fused AdamW takes the step.
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": True}} if settings.offload_optimizer else {}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if _plain_gradients(settings) else settings.max_grad_norm,
        "zero_optimization": {"stage": stage} | offload,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        # Gradients of micro-steps are summed in fp32. In bf16 the sum would be off by 0.2 % (relative norm, tiny model)
        # over 2 micro-steps, 0.5 % over 16, 1.2 % over 128.
        "data_types": {"grad_accum_dtype": "fp32"},
        # Stages 0 and 1 reduce the sums, once a step: in bf16 that would round them. The others reduce each micro-step.
        "communication_data_type": "fp32" if stage < 2 else None,
        "steps_per_print": 1 << 30,
    }


def _plain_gradients(settings: TrainSettings) -> bool:
    """Whether gradients are in the parameters' `.grad`, so that we clip them: DeepSpeed would not report their norm."""
    return settings.zero_stage == 0 and settings.dtype == "float32"


@contextlib.contextmanager
def partitioned_loading(settings: TrainSettings) -> Iterator[None]:
    """While open, `from_pretrained` partitions weights over the ranks as it reads them (ZeRO-3), so that no host holds
    a whole model per rank."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    if settings.zero_stage != 3:
        yield
        return
    holder = HfDeepSpeedConfig(deepspeed_config(settings))  # transformers keeps a weak reference only
    try:
        with uncast_buffers():
            yield
    finally:
        del holder
        unset_hf_deepspeed_config()


def open_engine(policy: PackedPolicy, settings: TrainSettings):
    """Wrap the policy in a DeepSpeed engine with AdamW."""
    import deepspeed

    if settings.activation_checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    use_kernels(policy.model, settings.kernels)
    policy.train()
    optimizer = _optimizer([parameter for parameter in policy.parameters() if parameter.requires_grad], settings)
    engine = deepspeed.initialize(model=policy, optimizer=optimizer, config=deepspeed_config(settings))[0]
    restore_buffers(policy.model)  # after everything that could have cast or rounded them
    if world() == 1 and _plain_gradients(settings):
        engine.enable_backward_allreduce = False  # it would copy every gradient for an all-reduce of one rank
    return engine


def _optimizer(parameters: list[torch.nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    betas, decay = (0.9, settings.adam_beta2), settings.weight_decay
    if settings.optimizer == "adamw8bit":
        return adamw8bit(parameters, settings.learning_rate, betas, decay)
    # torch's fused AdamW: DeepSpeed's are compiled at run time, the one for GPUs with nvcc.
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=betas, weight_decay=decay, fused=True)


def train(
    engine,
    objective,
    examples: Examples,
    settings: TrainSettings,
    seed: int,
    checkpoints: Path,
    tracker: Follower | None = None,
    watch: Watch | None = None,
    batcher: Batcher | None = None,
) -> None:
    """Train to the end, resuming from the newest complete checkpoint if any; `watch` sees the policy at every step.

    Raises:
        ValueError: when the loss or the gradient is not finite; the last checkpoint is still good.
        Stopped: when the run was asked to stop; it is saved first.
    """
    steps = steps_of(len(examples.trees), settings)
    batcher = batcher or Batcher(settings.micro_batch_tokens)
    # A resumed run may be computed differently: other ranks, another ZeRO stage, smaller micro-batches.
    fixed = {name: value for name, value in asdict(settings).items() if name not in EXECUTION}
    run = checkpoint.fingerprint(objective, [tree.id for tree in examples.trees], fixed, seed)
    start = checkpoint.resume(engine, checkpoints, run)
    if tracker is not None:
        tracker.resume_at(start)

    saved = start

    def leave_if_asked(step: int) -> None:
        checkpoint.leave_if_asked(engine, checkpoints, step, run, saved)

    def look(step: int) -> None:
        def stoppable(micro: MicroBatch, asked: Asked) -> Scores:
            leave_if_asked(step)
            return engine(micro, asked=asked)

        if watch is not None:
            watch.look(stoppable, step, steps)

    with checkpoint.saving(checkpoints):
        look(start)
        for step in range(start, steps):
            alive()
            leave_if_asked(step)
            rate = learning_rate_at(step, steps, settings)
            for group in engine.optimizer.param_groups:
                group["lr"] = rate
            items = global_batch_at(step, len(examples.trees), settings.global_batch, seed)
            sums, seen = _accumulate(
                engine, objective, items, examples, batcher, settings.sequence_ranks, partial(leave_if_asked, step)
            )
            clipped = _clip(engine, settings)
            engine.step()
            # Looked at only now, so that the host need not wait before: the weights may be bad, but they are not saved.
            totals = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
            norm = float(engine.get_global_grad_norm() if clipped is None else clipped)
            if not math.isfinite(totals["loss"] + norm):
                raise ValueError(nonfinite.dump(seen, examples.trees, examples.reference, step + 1, checkpoints.parent))
            if tracker is not None:
                tracker.log(step + 1, **totals, learning_rate=rate, grad_norm=norm)
                accuracy = {"accuracy": totals["reward_accuracy"]} if "reward_accuracy" in totals else {}
                tracker.progress(step + 1, steps, loss=totals["loss"], **accuracy)
            look(step + 1)
            every = settings.checkpoint_every
            if every and (step + 1) % every == 0 and step + 1 < steps:
                checkpoint.save(engine, checkpoints, step + 1, run)
                saved = step + 1


def _accumulate(
    engine,
    objective,
    items: list[int],
    examples: Examples,
    batcher: Batcher,
    together: int,
    leave_if_asked: Callable[[], None],
):
    """Accumulate one global batch's gradients, `together` ranks sharing each micro-batch; return its metrics' means,
    scalars that are still being computed, and what this rank, or those it shares with, computed."""
    beforehand = of_global_batch(engine, objective, items, examples, batcher)
    sums: dict[str, Tensor] = {}
    seen: list[nonfinite.Seen] = []
    trees = [examples.trees[item] for item in items]
    answers = answers_by_branch(trees, objective.branches)
    paired = set(answers.values()) == {len(items)}
    for share, micro, last in batcher.micro_batches(trees, objective.branches, world() // together, rank() // together):
        if world() == 1:  # several ranks agree on stopping once per step
            leave_if_asked()
        mine = [items[place] for place in share]
        scored = scored_by(engine, objective, part_of(micro, together, rank() % together).to(device()))
        batch = logps_of(objective, scored, mine, examples, beforehand)
        loss = objective(batch)
        if rank() % together == 0:
            seen.append((mine, scored.sums.detach(), loss.loss.detach()))
        engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks; the factor world / global batch makes the sum a mean over the global batch.
        engine.backward(loss.loss.sum() * (world() / len(items)))
        for name, value in (_metrics if paired else unpaired_metrics)(batch, loss).items():
            sums[name] = sums.get(name, 0.0) + value
    total = sum_over_ranks(torch.stack(list(sums.values())))
    means = dict(zip(sums, total / (together * len(items)), strict=True))
    return means if paired else of_answers(means, answers, len(items)), seen


def _clip(engine, settings: TrainSettings) -> Tensor | None:
    """Clip plain gradients and return their norm before clipping; None if DeepSpeed clips them in its step."""
    if not _plain_gradients(settings):
        return None
    return torch.nn.utils.clip_grad_norm_(engine.module.parameters(), settings.max_grad_norm)


def _metrics(batch: Logps, loss) -> dict[str, Tensor]:
    """Sum the metrics over the micro-batch's pairs; the caller divides by the global batch."""
    metrics = {"loss": loss.loss} | {f"logps_{branch}": logps for branch, logps in batch.policy.items()}
    if "rejected" in batch.policy:  # without it there is no ranking
        rewards = loss.chosen_reward, loss.rejected_reward
        metrics["reward_chosen"], metrics["reward_rejected"] = rewards
        metrics["reward_margin"], metrics["reward_accuracy"] = rewards[0] - rewards[1], right(*rewards)
        metrics["ranking_accuracy"] = right(batch.policy["chosen"], batch.policy["rejected"])
    return {name: value.detach().sum() for name, value in metrics.items()}
