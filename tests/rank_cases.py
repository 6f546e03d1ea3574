"""What the ranks of test_ranks_at_scale.py run: torchrun -m tests.rank_cases MODELS OUT SEQUENCE_RANKS CASE...

A case is `family,tied|untied,dtype,zero_stage,full|lora,objective`. For each one it writes OUT/CASE.pt: the largest
difference of a token's log-prob between the policy at step 0 and the reference, weights and dynamics after training.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from focalpo.data.trees import Tree, with_mismatched
from focalpo.processes.lifeline import leave
from focalpo.training import engine as engines
from focalpo.training.engine import Examples, open_engine, partitioned_loading, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.lora import add_adapters, merge
from focalpo.training.model import ModelSource, load_model
from focalpo.training.objective import OBJECTIVES
from focalpo.training.ranks import gather, rank
from focalpo.training.scoring import score
from focalpo.training.settings import LoraSettings, TrainSettings
from focalpo.training.watch import Watch
from tests.tiny import SETTINGS, random_trees

BRANCHES = ("chosen", "rejected")
# Prompts of 600 tokens and more: a rounded rotary table shows at large positions.
LONG = [
    Tree(f"long-{place}", (tree.prompt * 700)[: 600 + 30 * place], tree.branches)
    for place, tree in enumerate(random_trees(8, seed=3))
]
TREES = [*LONG, *random_trees(8, seed=11)]
ADAPTERS = LoraSettings(rank=4, alpha=8, targets=["q_proj", "v_proj", "up_proj"])


def main() -> None:
    models, out, together, *cases = sys.argv[1:]
    start_ranks()
    # The default leaves parameters under 100,000 elements whole on every rank: all of a tiny model.
    usual = engines.deepspeed_config
    engines.deepspeed_config = lambda *args: gathering(usual(*args))
    for case in cases:
        found = run(case, Path(models), Path(out) / "work" / case, int(together))
        if rank() == 0:
            torch.save(found, Path(out) / f"{case}.pt")


def gathering(config: dict) -> dict:
    """A DeepSpeed configuration that partitions and gathers every parameter, however small."""
    return config | {"zero_optimization": config["zero_optimization"] | {"stage3_param_persistence_threshold": 0}}


def run(case: str, models: Path, work: Path, together: int) -> dict:
    family, head, dtype, zero_stage, kind, name = case.split(",")
    source = ModelSource(str(models / f"{family}-{head}"))
    settings = replace(
        SETTINGS,
        dtype=dtype,
        zero_stage=int(zero_stage),
        activation_checkpointing=dtype == "bfloat16",
        micro_batch_tokens=2048,
        max_steps=4,
        sequence_ranks=together,
    )
    reference = PackedPolicy(load_model(source, dtype)).eval()
    mismatched = with_mismatched(TREES)
    cached = score(reference, TREES, BRANCHES, 4096) | score(reference, mismatched, ("mismatched",), 4096)
    with partitioned_loading(settings):
        model = load_model(source, dtype)
    adapters = add_adapters(model, ADAPTERS, seed=1) if kind == "lora" else None
    engine = open_engine(PackedPolicy(model), settings)
    work.mkdir(parents=True, exist_ok=True)
    objective = OBJECTIVES[name]()
    watch = Watch(TREES[:4], TREES[4:], {}, every=2, micro_batch_tokens=2048, folder=work, objective=objective)
    step_0 = score(engine, TREES, BRANCHES, 2048)
    examples = Examples(TREES, cached if objective.needs_reference else {}, mismatched)
    train(engine, objective, examples, settings, seed=5, checkpoints=work / "checkpoints", watch=watch)
    if adapters is not None:
        merge(adapters)
    return {
        "step 0": max(
            abs(step_0[branch][place] - cached[branch][place]) / len(tree.branches[branch])
            for branch in BRANCHES
            for place, tree in enumerate(TREES)
        ),
        "weights": exported(engine, settings),
        "dynamics": watch.summary(),
        "same on all ranks": len({str(each) for each in gather(watch.summary())}) == 1,
    }


def exported(engine, settings: TrainSettings) -> dict[str, torch.Tensor]:
    if settings.zero_stage != 3:
        return {name: value.float() for name, value in engine.module.model.state_dict().items()}
    state = engine._zero3_consolidated_16bit_state_dict() or {}
    return {name.removeprefix("model."): value.float() for name, value in state.items()}


if __name__ == "__main__":
    main()
    leave()
