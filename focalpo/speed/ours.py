"""A timed workload on this project's engine, and the check that no switch changes a number."""

import tempfile
from pathlib import Path

import torch

from focalpo.speed.flops import matmul_rate
from focalpo.speed.measured import Measured, Stopwatch, forget_peak, peak_bytes
from focalpo.speed.switches import Switches, attention_of, batcher_of, policy_of
from focalpo.speed.workload import Workload, policy_model, reference_model, shuffled, trees_of
from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import DPO, FocalPO, Logps
from focalpo.training.ranks import device
from focalpo.training.scoring import score

BETA = 0.1
Reference = dict[str, list[float]]


def reference(workload: Workload) -> Reference:
    """Log-probs of the workload's pairs under its frozen model, in training order."""
    policy = PackedPolicy(reference_model(workload, workload.train.dtype)).to(device()).eval()
    return score(policy, trees_of(workload), ("chosen", "rejected"), workload.train.micro_batch_tokens)


def measure(workload: Workload, cached: Reference, switches: Switches) -> Measured:
    """Train on the workload with its loss and time the steps."""
    start_ranks()
    forget_peak()
    rate = matmul_rate(workload.train.dtype, device())
    model = policy_model(workload, workload.train.dtype)
    frozen = None if switches.cached_reference else reference_model(workload, workload.train.dtype)
    engine = open_engine(policy_of(model, frozen, switches), workload.train)
    batch, seed = workload.train.global_batch, workload.seed
    placed = {branch: shuffled(values, batch, seed) for branch, values in cached.items()}
    examples = Examples(shuffled(trees_of(workload), batch, seed), placed, mismatched=[])
    objective = FocalPO(beta=BETA, gamma=workload.gamma) if workload.gamma else DPO(beta=BETA)
    watch = Stopwatch()
    batcher = batcher_of(switches, workload.train.micro_batch_tokens)
    with tempfile.TemporaryDirectory() as folder, attention_of(switches):
        train(engine, objective, examples, workload.train, seed, Path(folder), watch, batcher=batcher)
    return Measured(watch.seconds[1:], peak_bytes(), watch.losses[0], rate)


def gradients(workload: Workload, cached: Reference, switches: Switches) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Per-pair losses `[pairs]` and the gradients of their mean over the first global batch, by plain autograd."""
    model = policy_model(workload, workload.train.dtype)
    policy = policy_of(model, None, switches).to(device())
    trees = trees_of(workload)[: workload.train.global_batch]
    if not switches.cached_reference:
        cached = reference(workload)
    losses = torch.zeros(len(trees))
    batcher = batcher_of(switches, workload.train.micro_batch_tokens)
    for share, micro, _ in batcher.micro_batches(trees, ("chosen", "rejected"), ranks=1, rank=0):
        loss = _dpo(policy(micro.to(device())), share, cached)
        (loss.sum() / len(trees)).backward()
        losses[share] = loss.detach().cpu()
    return losses, [parameter.grad for parameter in model.parameters()]


def _dpo(logps: torch.Tensor, share: list[int], cached: Reference) -> torch.Tensor:
    branches = ("chosen", "rejected")
    known = {branch: torch.tensor([cached[branch][item] for item in share], device=logps.device) for branch in branches}
    return DPO(beta=BETA)(Logps(dict(zip(branches, logps.T, strict=True)), known, {}, {})).loss
