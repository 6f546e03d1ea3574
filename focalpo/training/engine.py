"""The training loop: DeepSpeed for 1..n ranks, ZeRO 0-3, CPU or GPU. It knows no loss by name.

    order -> global batch -> deal -> micro-batches -> logps -> objective -> backward ... -> one optimizer step

The global batch is the scientific quantity: the gradient is the mean over its pairs, whatever the number of ranks and
micro-steps. Data order and learning rate are pure functions of the step, so a resumed run needs no more than the step.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from focalpo.data.tokens import Tree
from focalpo.track import Tracker
from focalpo.training import checkpoint, nonfinite
from focalpo.training.dynamics import Watch
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import Logps
from focalpo.training.packing import deal, pack, tree_cost
from focalpo.training.ranks import alive, device, rank, sum_over_ranks, world


@dataclass(frozen=True, slots=True)
class Examples:
    """What is trained on: trees, their reference log-probs by branch in the same order (empty when the objective needs
    none), and the trees of the mismatched branch for objectives that estimate a KL."""

    trees: Sequence[Tree]
    reference: dict[str, list[float]]
    mismatched: Sequence[Tree]


@dataclass(slots=True)
class TrainSettings:
    """Everything about optimisation that changes the weights, and the two knobs that do not (the micro-batch and how
    often to save)."""

    learning_rate: float
    global_batch: int
    epochs: int
    max_steps: int | None
    warmup_ratio: float
    weight_decay: float
    adam_beta2: float
    max_grad_norm: float
    dtype: str
    zero_stage: int
    activation_checkpointing: bool
    micro_batch_tokens: int
    checkpoint_every: int

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its remedy."""
        checks = {
            f"train.learning_rate={self.learning_rate} must be > 0": self.learning_rate > 0,
            f"train.global_batch={self.global_batch} must be >= 1 pairs": self.global_batch >= 1,
            f"train.epochs={self.epochs} must be >= 1": self.epochs >= 1,
            f"train.max_steps={self.max_steps} must be >= 1, or null": self.max_steps is None or self.max_steps >= 1,
            f"train.warmup_ratio={self.warmup_ratio} must be in [0, 1)": 0 <= self.warmup_ratio < 1,
            f"train.weight_decay={self.weight_decay} must be >= 0": self.weight_decay >= 0,
            f"train.adam_beta2={self.adam_beta2} must be in (0, 1)": 0 < self.adam_beta2 < 1,
            f"train.max_grad_norm={self.max_grad_norm} must be > 0": self.max_grad_norm > 0,
            f"train.dtype={self.dtype!r} must be float32 or bfloat16": self.dtype in ("float32", "bfloat16"),
            f"train.zero_stage={self.zero_stage} must be 0, 1, 2 or 3": self.zero_stage in (0, 1, 2, 3),
            f"train.micro_batch_tokens={self.micro_batch_tokens} must be >= 1": self.micro_batch_tokens >= 1,
            f"train.checkpoint_every={self.checkpoint_every} must be >= 0 steps": self.checkpoint_every >= 0,
        }
        return [message for message, fine in checks.items() if not fine]


def steps_of(pairs: int, settings: TrainSettings) -> int:
    """Optimizer steps of a run; the last, incomplete global batch of each epoch is left out.

    Raises:
        ValueError: when there are fewer pairs than one global batch.
    """
    if pairs < settings.global_batch:
        raise ValueError(f"{pairs} pairs do not fill one train.global_batch of {settings.global_batch}; lower it")
    steps = settings.epochs * (pairs // settings.global_batch)
    return min(steps, settings.max_steps or steps)


def global_batch_at(step: int, pairs: int, global_batch: int, seed: int) -> list[int]:
    """The pairs of a step: a permutation for each epoch, drawn from (seed, epoch) alone."""
    epoch, place = divmod(step, pairs // global_batch)
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(pairs, generator=draw)[place * global_batch : (place + 1) * global_batch].tolist()


def learning_rate_at(step: int, steps: int, settings: TrainSettings) -> float:
    """Linear warm-up from 0, then cosine to 0, as in transformers' schedule that the paper's family of recipes uses."""
    warmup = math.ceil(steps * settings.warmup_ratio)
    if step < warmup:
        return settings.learning_rate * step / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def start_ranks() -> None:
    """Join the process group that the launcher described, or make a group of one."""
    if torch.distributed.is_initialized():
        return
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # Without a GPU DeepSpeed would compile a shared-memory collective at run time (a C++ compiler, half a minute, files
    # left in /dev/shm); gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)  # its INFO repeats the configuration on every start
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "MASTER_ADDR" not in os.environ:
        # A store inside the process: a group of one needs no port, so nothing can already be listening on it.
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it even then
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def deepspeed_config(settings: TrainSettings) -> dict:
    """The DeepSpeed configuration. Batch sizes are ours: every call of the engine is one micro-batch of one."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        # DeepSpeed's plain bf16 optimizer hides its fp32 weights from checkpoints; stage 1 is the same arithmetic.
        "zero_optimization": {"stage": settings.zero_stage or int(settings.dtype == "bfloat16")},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "steps_per_print": 1 << 30,
    }


@contextlib.contextmanager
def partitioned_loading(settings: TrainSettings) -> Iterator[None]:
    """While open, `from_pretrained` splits weights over the ranks as it reads them (ZeRO-3), so that no host ever holds
    a whole model per rank."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    if settings.zero_stage != 3:
        yield
        return
    holder = HfDeepSpeedConfig(deepspeed_config(settings))  # transformers holds it weakly: it must stay in scope
    try:
        yield
    finally:
        del holder
        unset_hf_deepspeed_config()


def open_engine(policy: PackedPolicy, settings: TrainSettings):
    """Wrap the policy in a DeepSpeed engine with AdamW."""
    import deepspeed

    if settings.activation_checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.train()
    # torch's own AdamW: DeepSpeed's fused one is compiled at run time and wants nvcc.
    optimizer = torch.optim.AdamW(
        [parameter for parameter in policy.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=(0.9, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=torch.cuda.is_available(),
    )
    return deepspeed.initialize(model=policy, optimizer=optimizer, config=deepspeed_config(settings))[0]


def train(
    engine,
    objective,
    examples: Examples,
    settings: TrainSettings,
    seed: int,
    checkpoints: Path,
    tracker: Tracker | None = None,
    watch: Watch | None = None,
) -> None:
    """Train to the end, from the newest complete checkpoint if there is one; `watch` sees the policy at every step.

    Raises:
        ValueError: when the loss is not finite, naming the pairs at fault.
        Stopped: when somebody asked for it; the run is saved.
    """
    steps = steps_of(len(examples.trees), settings)
    # How it is computed may differ when it goes on: other ranks, another ZeRO stage, smaller micro-batches.
    what = replace(settings, zero_stage=0, activation_checkpointing=False, micro_batch_tokens=1, checkpoint_every=0)
    run = checkpoint.fingerprint(objective, [tree.id for tree in examples.trees], what, seed)
    start = checkpoint.resume(engine, checkpoints, run)
    if tracker is not None:
        tracker.resume_at(start)
    if watch is not None:
        watch.look(engine, start, steps)
    for step in range(start, steps):
        alive()
        rate = learning_rate_at(step, steps, settings)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        items = global_batch_at(step, len(examples.trees), settings.global_batch, seed)
        totals, seen = _accumulate(engine, objective, items, examples, settings.micro_batch_tokens)
        if not math.isfinite(totals["loss"]):
            raise ValueError(nonfinite.tell(seen, examples.trees, examples.reference, step, checkpoints.parent))
        norm = _gradient_norm(engine)
        engine.step()
        if tracker is not None:
            norm = float(engine.get_global_grad_norm()) if norm is None else norm
            tracker.log(step + 1, **totals, learning_rate=rate, grad_norm=norm)
            tracker.progress(step + 1, steps, loss=totals["loss"], accuracy=totals["reward_accuracy"])
        if watch is not None:
            watch.look(engine, step + 1, steps)
        if step + 1 < steps:
            checkpoint.save_when_due(engine, checkpoints, step + 1, run, settings.checkpoint_every)


def _accumulate(engine, objective, items: list[int], examples: Examples, budget: int):
    """Gradients of one global batch; the means of its metrics over all ranks, and what this rank has seen of it."""
    trees, branches = examples.trees, objective.branches
    means = _batch_means(engine, objective, items, examples, budget)
    shares = deal([tree_cost(trees[item], branches) for item in items], world(), budget)[rank()]
    sums: dict[str, Tensor] = {}
    seen: list[nonfinite.Seen] = []
    for place, share in enumerate(shares):
        mine = [items[position] for position in share]
        logps = engine(pack([trees[item] for item in mine], branches).to(device()))
        batch = _logps(branches, logps, mine, trees, examples.reference, means)
        loss = objective(batch)
        seen.append((mine, logps.detach(), loss.loss.detach()))
        engine.set_gradient_accumulation_boundary(place == len(shares) - 1)
        # DeepSpeed averages over ranks; times world / global batch makes the whole a mean over the global batch.
        engine.backward(loss.loss.sum() * (world() / len(items)))
        for name, value in _metrics(batch, loss).items():
            sums[name] = sums.get(name, 0.0) + value
    total = sum_over_ranks(torch.stack(list(sums.values())))
    return dict(zip(sums, (total / len(items)).tolist(), strict=True)), seen


def _gradient_norm(engine) -> float | None:
    """The norm before clipping where DeepSpeed keeps plain gradients (ZeRO-0 in fp32) and does not tell it itself."""
    if engine.zero_optimization_stage() or engine.bfloat16_enabled():
        return None
    return float(torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None]))


def _batch_means(engine, objective, items: list[int], examples: Examples, budget: int) -> dict[str, Tensor]:
    """Means over the global batch that the objective wants before any gradient is taken (KTO's KL, SFT's length)."""
    branches = objective.batch_branches
    if not branches:  # lengths alone are known to every rank
        terms = objective.batch_terms(Logps({}, {}, _lengths(objective.branches, items, examples.trees), {}))
        return {name: value.mean() for name, value in terms.items()}
    sources = examples.mismatched
    sums: dict[str, Tensor] = {}
    for share in deal([tree_cost(sources[item], branches) for item in items], world(), budget)[rank()]:
        mine = [items[position] for position in share]
        with torch.no_grad():
            logps = engine(pack([sources[item] for item in mine], branches).to(device()))
        batch = _logps(branches, logps, mine, sources, examples.reference, {})
        for name, value in objective.batch_terms(batch).items():
            sums[name] = sums.get(name, 0.0) + value.sum()
    return {name: sum_over_ranks(value) / len(items) for name, value in sums.items()}


def _logps(branches, logps: Tensor, items, trees, reference: dict[str, list[float]], means) -> Logps:
    cached = {
        branch: torch.tensor([reference[branch][item] for item in items], device=logps.device)
        for branch in branches
        if branch in reference
    }
    policy = {branch: logps[:, place] for place, branch in enumerate(branches)}
    return Logps(policy, cached, _lengths(branches, items, trees), means)


def _lengths(branches, items, trees) -> dict[str, Tensor]:
    return {
        branch: torch.tensor([float(len(trees[item].branches[branch])) for item in items], device=device())
        for branch in branches
    }


def _metrics(batch: Logps, loss) -> dict[str, Tensor]:
    """Sums over the micro-batch's pairs, to be divided by the global batch."""
    margin = loss.chosen_reward - loss.rejected_reward
    metrics = {
        "loss": loss.loss,
        "reward_chosen": loss.chosen_reward,
        "reward_rejected": loss.rejected_reward,
        "reward_margin": margin,
        "reward_accuracy": (margin > 0).float(),
    }
    for branch, logps in batch.policy.items():
        metrics[f"logps_{branch}"] = logps
    if "rejected" in batch.policy:
        metrics["ranking_accuracy"] = (batch.policy["chosen"] >= batch.policy["rejected"]).float()
    return {name: value.detach().sum() for name, value in metrics.items()}
