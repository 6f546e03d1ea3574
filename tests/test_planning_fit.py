"""What the plan says about memory and micro-steps: deals by hand, and advice that fits when it is followed."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from focalpo.planning.fitting import GIB, USABLE, advice
from focalpo.planning.lengths import Lengths, deal_all, deal_assumed, deal_sealed
from focalpo.planning.needs import Estimate
from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.stages.folder import Folder, Stage
from recipes.plan import described

MISTRAL = ("table=paper", "settings=base", "rows=dpo", "launch=gpu1", "launch.gpu_gib=140")
SMALL = ("table=one_gpu", "rows=dpo")
LONG = ("table=paper", "settings=instruct", "rows=dpo", "data.max_length=32768", "train.offload_optimizer=true")
COLUMNS = ("prompt", "chosen", "rejected")


def training(*arguments: str) -> tuple[Estimate, Stage]:
    plan = planned([*arguments, "runs=none"])
    return Estimate(plan.first, plan.runs), next(each for each in in_order([plan.report]) if each.kind == "train")


def test_micro_steps_of_dealt_batches_by_hand() -> None:
    """10 and 12 tokens: at a budget of 11 the first batch takes one micro-step, the second two of 8 and 4."""
    batches = [[4, 3, 3], [4, 4, 4]]
    found = deal_all(batches, ranks=1, budget=11)
    assert found.steps == {1: 0.5, 2: 0.5} and found.largest == 10
    assert str(found) == "1 in 50.0%, 2 in 50.0%"
    assert deal_all(batches, ranks=1, budget=12).steps == {1: 1.0}
    assert deal_all(batches, ranks=3, budget=4).largest == 4


def test_drawn_lengths_have_the_mean_and_the_limits() -> None:
    free = Lengths(100, 0.5, 50, 0.3, 1 << 20, 1 << 20)
    assert free.pairs(20000, answers=2).mean() == pytest.approx(100 + 2 * 50, rel=0.02)
    cut = Lengths(100, 1.0, 300, 1.0, 128, 512)
    pairs = cut.pairs(20000, answers=2)
    assert pairs.max() <= cut.longest(2) == 4 + 2 * 508 and pairs.min() >= 12
    assert np.array_equal(pairs, cut.pairs(20000, answers=2))


def test_every_global_batch_of_the_paper_settings_takes_one_micro_step() -> None:
    """Llama: at 16,384 tokens almost half of them took two; a quarter more tokens than assumed still fit."""
    estimate, stage = training("table=paper", "settings=instruct", "rows=dpo")
    assert estimate.dealt(stage).steps == {1: 1.0}
    assert 0.3 < estimate.dealt(stage, budget=16384).steps[2] < 0.6
    longer = Lengths(275, 1.0, 500, 0.6, 1800, 2048)
    assert deal_assumed(longer, 2, 128, 8, stage.launch["train"]["micro_batch_tokens"]).steps == {1: 1.0}
    mistral, stage = training("table=paper", "settings=base", "rows=dpo")
    assert mistral.dealt(stage).steps == {1: 1.0}


def test_sealed_pairs_are_dealt_by_their_own_lengths(tmp_path: Path) -> None:
    """Every pair has 50 tokens, so 32 pairs have 1,600: one micro-step at 1600, two at 1599, of 800 tokens each."""
    plan = planned(["rows=dpo", "settings=base", "seeds=1", f"runs={tmp_path}"])
    stage = next(each for each in in_order([plan.report]) if each.kind == "train")
    with (folder := Folder(tmp_path, stage.inputs["pairs"])).being_made():
        ids = [np.ones(length, np.int32) for length in (10, 25, 15)]
        tree = {"id": ["t"] * 64} | {name: [each] * 64 for name, each in zip(COLUMNS, ids, strict=True)}
        pq.write_table(pa.table(tree), folder.path / "train_trees.parquet")
        folder.seal(1.0, {"train": 64, "test": 1})
    estimate = Estimate(plan.first, tmp_path)
    found = [estimate.dealt(stage, budget=budget) for budget in (1600, 1599)]
    assert [(each.steps, each.largest) for each in found] == [({1: 1.0}, 1600), ({2: 1.0}, 800)]
    with pytest.raises(ValueError, match="64 pairs do not fill one train.global_batch of 65; lower it"):
        deal_sealed(folder.path / "train_trees.parquet", 1, 65, 1, 1600)
    assert "micro-steps of pocket in global batches of 32 pairs: 1 in 100.0% (lengths of the sealed" in described(plan)


@pytest.mark.parametrize(
    "arguments, change",
    [
        ([*MISTRAL, "train.zero_stage=1"], "train.zero_stage=2"),  # smaller micro-batches as well
        ([*MISTRAL, "train.zero_stage=1", "launch.gpu_gib=150"], "train.zero_stage=2"),
        ([*MISTRAL, "launch.gpu_gib=80"], "train.offload_optimizer=true"),
        ([*SMALL, "model=qwen2_5_1_5b_instruct"], "train.offload_optimizer=true"),
        ([*MISTRAL, "launch.gpu_gib=21"], "lora=rank16"),
        ([*MISTRAL, "launch.gpu_gib=12"], "lora=qlora"),
        ([*MISTRAL, "launch.gpu_gib=70", "train.optimizer=adamw8bit"], "launch.ranks=2"),
        ([*LONG, "launch.gpu_gib=14"], "train.sequence_ranks=2"),
        ([*LONG, "launch.gpu_gib=10"], "train.sequence_ranks=8"),
        ([*SMALL, "launch.gpu_gib=11.5"], "train.micro_batch_tokens"),
        ([*SMALL, "train.activation_checkpointing=false", "launch.gpu_gib=16"], "train.micro_batch_tokens"),
        (["table=paper", "settings=base", "rows=dpo", "launch.gpu_gib=40", "train.zero_stage=1"], "train.zero_stage=3"),
    ],
)
def test_advice_that_is_followed_fits(arguments: list[str], change: str) -> None:
    found = advice(*training(*arguments))
    assert found is not None and change in found, found
    overrides = re.search(r"with (.*) it is (\d+)(?:, and \d+ of the host's memory for each GPU)?$", found)
    assert overrides is not None
    estimate, stage = training(*arguments, *overrides[1].split())
    assert advice(estimate, stage) is None
    assert estimate.memory(stage).total / GIB == pytest.approx(float(overrides[2]), abs=0.5)


def test_a_training_that_fits_or_needs_no_gpu_gets_no_advice() -> None:
    estimate, stage = training(*SMALL)
    assert advice(estimate, stage) is None and estimate.memory(stage).total < USABLE * 24 * GIB
    assert advice(*training("rows=dpo")) is None


def test_what_nothing_fits_is_said_so() -> None:
    found = advice(*training(*SMALL, "launch.gpu_gib=1"))
    assert found is not None and "GPUs with more memory, or a smaller model" in found


def test_the_plan_prints_the_warning_and_the_micro_steps() -> None:
    lines = described(planned([*MISTRAL, "train.zero_stage=1", "runs=none"])).splitlines()
    assert any(line.startswith("warning: mistral_7b_sft_beta does not fit: ") for line in lines)
    assert any(line.startswith("micro-steps of mistral_7b_sft_beta in global batches of 128 pairs: ") for line in lines)
    both = described(planned(["table=paper", "rows=dpo", "runs=none"]))
    assert both.count("GiB a GPU while ") == 2 and "warning" not in both
