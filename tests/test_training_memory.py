"""The estimate of memory: values by hand, DeepSpeed's own defaults, and the measured peak of real steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from focalpo.training import memory
from focalpo.training.cost import Batch, Shape
from focalpo.training.memory import Memory, Peak, training_memory

ROOT = Path(__file__).parent.parent
SHAPE = Shape(layers=2, hidden=8, intermediate=16, heads=4, kv_heads=2, vocabulary=100, tied=False)
SMALL = Batch(10, 5)


def moments(*arguments, **keywords) -> dict[str, Peak]:
    return {moment.moment: moment for moment in training_memory(*arguments, **keywords).moments}


def test_the_peak_is_the_largest_moment() -> None:
    found = Memory((Peak("backward", parameters=3, head=1), Peak("step", parameters=3, buffers=2)))
    assert found.peak.moment == "step" and found.total == 5


def test_buckets_and_sub_groups_are_deepspeeds() -> None:
    zero = DeepSpeedZeroConfig()
    assert (zero.reduce_bucket_size, zero.sub_group_size) == (memory.REDUCE_BUCKET, memory.SUB_GROUP)
    assert (zero.prefetch_bucket_size, zero.max_reuse_distance) == (memory.PREFETCH, memory.REUSE_DISTANCE)


# Bytes per parameter with buckets and matrices that are small beside the model: weights, sums of gradients, optimizer.
STATES = {
    ("float32", 0, 1): (4, 4, 8),
    ("float32", 1, 1): (4, 4, 12),
    ("bfloat16", 0, 1): (2, 6, 12),  # runs as stage 1; fp32 sums beside the gradients themselves
    ("bfloat16", 1, 4): (2, 6, 3),
    ("bfloat16", 2, 4): (2, 1, 3),
    ("bfloat16", 3, 4): (0.5, 1, 3),
    ("float32", 3, 4): (1, 1, 3),
}


@pytest.mark.parametrize("dtype, stage, ranks", STATES)
def test_states_by_hand(dtype: str, stage: int, ranks: int) -> None:
    for moment in moments(SHAPE, SMALL, dtype, stage, ranks, False, "cuda").values():
        parts = moment.parameters, moment.gradients, moment.optimizer
        assert tuple(part / SHAPE.parameters for part in parts) == STATES[dtype, stage, ranks]


def test_states_of_an_offloaded_optimizer_by_hand() -> None:
    """The GPU keeps weights in bf16; the host fp32 weights, 2 moments, gradients and their sums: 20 bytes a parameter.
    A matrix of 256 elements of a rank's part goes there as a sum, which comes back, and in fp64 for its norm."""
    shape = Shape(layers=2, hidden=8, intermediate=16, heads=4, kv_heads=2, vocabulary=128, tied=False)
    usual, offloaded = (
        training_memory(shape, SMALL, "bfloat16", 3, 4, False, "cuda", offload=each) for each in (False, True)
    )
    assert (usual.host, offloaded.host) == (0, 20 * shape.parameters / 4)
    found = {moment.moment: moment for moment in offloaded.moments}
    assert all((each.gradients, each.optimizer) == (0, 0) for each in found.values())
    assert all(each.parameters == 2 * shape.parameters / 4 for each in found.values())
    assert found["step"].buffers == 2 * 500_000_000
    assert offloaded.moments[1].buffers == usual.moments[1].buffers + (4 + 8) * 128 * 8 / 4


def test_moments_in_8_bit_by_hand() -> None:
    """Two bytes, and of every 256 two scales in fp32, instead of 8 bytes."""
    exact, eight = (
        moments(SHAPE, SMALL, "bfloat16", 3, 1, False, "cuda", optimizer=each)["step"].optimizer
        for each in ("adamw", "adamw8bit")
    )
    assert exact - eight == (8 - 2 - 8 / 256) * SHAPE.parameters


def test_8b_models_of_small_labs() -> None:
    """Llama-3-8B in stage 3: offloaded it fits 80 GB, and two GPUs of 48; with moments in 8 bit one of 141, which it
    does not with all states in fp32, 18 bytes a parameter."""
    shape, batch = Shape(32, 4096, 14336, 32, 8, 128256, tied=False), Batch(8192, 6000)

    def total(ranks: int, **how) -> float:
        return training_memory(shape, batch, "bfloat16", 3, ranks, True, "cuda", **how).total

    assert total(1, offload=True) < 0.5 * 80e9 and total(2, offload=True) < 0.6 * 48e9
    assert 12 * shape.parameters < total(1, optimizer="adamw8bit") < 0.8 * 141e9 < 141e9 < total(1)


def test_copies_of_gradients_in_the_optimizer_step_by_hand() -> None:
    """Llama-3-8B on one GPU, its largest matrix 128,256 x 4,096. Stage 1: none. Stage 2: that matrix in fp64. Stage 3:
    a bucket in bf16, and in fp32 one sub-group, which ends with the matrix that fills it. fp32: all, flattened."""
    shape = Shape(32, 4096, 14336, 32, 8, 128256, tied=False)
    largest = 128256 * 4096

    def buffers(dtype: str, stage: int, ranks: int = 1) -> float:
        return moments(shape, SMALL, dtype, stage, ranks, True, "cuda")["step"].buffers

    assert buffers("bfloat16", 1) == 0
    assert buffers("bfloat16", 2) == 8 * largest
    assert buffers("bfloat16", 3) == 2 * 500_000_000 + 4 * (1_000_000_000 + largest)
    assert buffers("bfloat16", 3, 32) == 2 * 500_000_000 + 4 * shape.parameters / 32  # less than one sub-group
    assert buffers("float32", 2) == 4 * shape.parameters and buffers("float32", 0) == 0


def test_a_7b_model_does_not_fit_one_gpu_of_141_gb_in_stage_1_and_does_in_stages_2_and_3() -> None:
    mistral = Shape(32, 4096, 14336, 32, 8, 32000, tied=False)
    batch = Batch(4096, 3000)
    sizes = [training_memory(mistral, batch, "bfloat16", stage, 1, True, "cuda").total for stage in (1, 2, 3)]
    assert sizes[0] > 20 * mistral.parameters > 141e9 and max(sizes[1:]) < 141e9


def test_a_bucket_is_reduced_while_activations_are_allocated_only_where_it_does_not_hold_all_gradients() -> None:
    large = Shape(32, 4096, 14336, 32, 8, 32000, tied=False)
    found = moments(large, SMALL, "bfloat16", 3, 8, False, "cuda")
    assert found["reduction"].activations == found["backward"].activations > 0
    assert moments(SHAPE, SMALL, "bfloat16", 3, 8, False, "cuda")["reduction"].activations == 0


def test_gathered_weights_by_hand() -> None:
    """All of a small model stay gathered; of a large one those within half the reuse distance, and the next. Those that
    just arrived exist twice: the head, and the next."""
    bucket = 2 * 500_000_000
    large = Shape(32, 4096, 14336, 32, 8, 32000, tied=False)
    gathered = moments(SHAPE, SMALL, "bfloat16", 3, 8, False, "cuda")["backward"].buffers - bucket
    assert gathered == 2 * 2 * SHAPE.parameters
    head = 32000 * 4096
    gathered = moments(large, SMALL, "bfloat16", 3, 8, False, "cuda")["backward"].buffers - bucket
    assert gathered == 2 * (550_000_000 + head + 50_000_000)
    assert moments(large, SMALL, "bfloat16", 3, 1, False, "cuda")["backward"].buffers - bucket == 0


def test_activations_by_hand() -> None:
    """Per token and layer, fp32: (9 x 8 + 2 x 4 + 4 x 16) x 4 bytes = 576; recomputed: 8 x 4, plus one whole layer.
    bf16: half, and the inputs of two norms in fp32, 2 x 8 x 2 bytes; on a CPU attention's too, 2 x (8 + 4) x 2."""

    def activations(dtype: str, recomputed: bool, device: str = "cpu") -> float:
        return moments(SHAPE, SMALL, dtype, 0, 1, recomputed, device)["backward"].activations

    assert activations("float32", False) == 2 * 10 * 576
    assert activations("float32", True) == 2 * 10 * 32 + 10 * 576
    assert activations("bfloat16", False, "cuda") == 2 * 10 * (288 + 32)
    assert activations("bfloat16", False) == 2 * 10 * (288 + 32 + 48)


def test_the_heads_memory_by_hand() -> None:
    """fp32 logits and logsumexp's, beside the weight's gradient. 5 rows: twice all. 200,000 rows: once all, which are
    kept, and once a chunk of 16 words. 700,000 rows, too many to keep: twice a chunk of 8 words."""

    def head(rows: int) -> float:
        return moments(SHAPE, Batch(rows, rows), "float32", 0, 1, False, "cpu")["backward"].head - 4 * 800

    assert [head(5), head(200_000), head(700_000)] == [4 * 1000, 4 * 200_000 * (100 + 16), 4 * 700_000 * 2 * 8]


def test_adapters_have_gradients_and_moments_and_the_model_has_none() -> None:
    found = moments(SHAPE, SMALL, "bfloat16", 2, 1, False, "cpu", adapters=50)["backward"]
    assert found.parameters == 2 * (SHAPE.parameters + 50)
    assert (found.gradients, found.optimizer) == (4 * 50, 12 * 50)
    assert found.head == 2 * 4 * 500, "the head's weight is frozen"


def test_quantised_matrices_take_4_bits_and_their_scales_and_one_is_dequantised() -> None:
    dense, small = (
        moments(SHAPE, SMALL, "bfloat16", 2, 1, False, "cpu", adapters=50, quantised=quantised)["backward"]
        for quantised in (False, True)
    )
    # 1,152 of 2,792 weights, in 18 blocks: half a byte each, a byte for a block's scale, 4 bytes for 256 scales.
    assert small.parameters == 576 + 18 + 4 * 18 / 256 + 2 * (2792 - 1152 + 50)
    assert small.buffers - dense.buffers == 2 * 8 * 16
    assert (small.gradients, small.optimizer, small.head) == (dense.gradients, dense.optimizer, dense.head)


# name -> shape, pairs of 32 + 2 x 48 tokens, dtype, stage, recomputed, ranks
LARGE = Shape(6, 512, 1408, 8, 8, 8000, tied=False)
DEEP = Shape(8, 256, 704, 4, 4, 2000, tied=False)
MEASURED = {
    "wide": (Shape(2, 768, 2048, 12, 4, 2000, tied=False), 16, "float32", 0, False, 1),
    "many words": (Shape(2, 256, 704, 4, 4, 32000, tied=True), 8, "float32", 0, False, 1),
    "recomputed": (Shape(8, 256, 704, 4, 2, 1000, tied=False), 12, "float32", 0, True, 1),
    "stage 1": (LARGE, 1, "bfloat16", 1, False, 1),
    "stage 2": (LARGE, 1, "bfloat16", 2, False, 1),
    "stage 3": (LARGE, 1, "bfloat16", 3, False, 1),
    "stage 1, activations": (DEEP, 32, "bfloat16", 1, False, 1),
    "stage 3, activations": (DEEP, 32, "bfloat16", 3, False, 1),
    "stage 3 of two ranks": (LARGE, 1, "bfloat16", 3, False, 2),
    "stage 3, offloaded": (LARGE, 1, "bfloat16", 3, False, 1),  # on a CPU to the same memory
}
MEASURE = """
import json, sys
from dataclasses import replace
from focalpo.processes.lifeline import leave
from focalpo.speed import rate
from focalpo.training.ranks import rank
from tests.test_training_memory import MEASURED
from tests.tiny import SETTINGS
rate.SECONDS, rate.LEAST_STEPS = 0.0, 1  # the second step's peak is every later step's
shape, trees, dtype, stage, recomputed, _ = MEASURED[sys.argv[1]]
settings = replace(SETTINGS, dtype=dtype, zero_stage=stage, activation_checkpointing=recomputed)
settings.offload_optimizer = sys.argv[1].endswith("offloaded")
measured = rate.measure(shape, 32, 48, trees, settings)
if rank() == 0:
    print(json.dumps(measured))
leave()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_the_estimate_is_within_15_percent_of_the_measured_peak(name: str, tmp_path: Path) -> None:
    # The allocator returns freed memory to the system, so that the peak of the process is the peak of its tensors.
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ranks = MEASURED[name][-1]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    (script := tmp_path / "measure.py").write_text(MEASURE)
    command = [sys.executable, *launcher, str(script), name]
    environment |= {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert found["estimated_bytes"] == pytest.approx(found["measured_bytes"], rel=0.15), found
