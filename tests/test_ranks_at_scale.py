"""The paper's configuration on two ranks: every parameter partitioned and gathered, bf16, recomputed activations.

Tiny parameters fall below DeepSpeed's persistence threshold and would stay whole; tests/rank_cases.py sets it to 0.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from focalpo.config.compose import CONF, compose
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.scoring import score
from tests.rank_cases import BRANCHES, TREES
from tests.tiny import ARCHITECTURES, tiny_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CASES = [
    "llama,tied,bfloat16,3,full,focalpo",
    "mistral,untied,bfloat16,3,full,kto",
    "qwen2,tied,bfloat16,3,lora,dpo",
    "llama,tied,bfloat16,1,full,focalpo",
    "llama,untied,float32,3,lora,wpo",
    "qwen2,tied,float32,3,full,kto",
    "mistral,tied,float32,2,full,amapo",
    "llama,tied,float32,0,full,dpo",
]
# Trained on two ranks that share each micro-batch as well: losses that see sums, tokens and the global batch.
TOGETHER = [CASES[number] for number in (0, 4, 5, 6)]
# Nats of a token; the reference is scored in other micro-batches than the policy.
STEP_0 = {"float32": 1e-5, "bfloat16": 1e-3}
# Two ranks against one, relative to how far the weights moved. In bf16 both round, in different micro-batches.
ALIKE = {"float32": 1e-5, "bfloat16": 0.05}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in ARCHITECTURES:
        for head in ("tied", "untied"):
            model = tiny_model(family, tie_word_embeddings=head == "tied", max_position_embeddings=2048)
            model.save_pretrained(root / f"{family}-{head}")
    return root


@pytest.fixture(scope="module")
def found(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int | str, dict[str, dict]]:
    """What each case found on one rank, on two, and on two that share each micro-batch ("together")."""
    results: dict[int | str, dict[str, dict]] = {}
    for name, ranks, together, cases in ((1, 1, 1, CASES), (2, 2, 1, CASES), ("together", 2, 2, TOGETHER)):
        out = tmp_path_factory.mktemp(f"ranks-{name}")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, *launcher, "-m", "tests.rank_cases", str(models), str(out), str(together), *cases]
        ran = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
        assert ran.returncode == 0, ran.stderr.decode()[-3000:]
        results[name] = {case: torch.load(out / f"{case}.pt") for case in cases}
    return results


def test_the_cases_cover_every_training_configuration_of_conf() -> None:
    configs = [compose([f"train={file.stem}"]).train for file in (CONF / "train").glob("*.yaml")]
    offered = {(train.dtype, str(train.zero_stage)) for train in configs}
    assert offered <= {tuple(case.split(",")[2:4]) for case in CASES}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_policy_at_step_0_is_the_reference(case: str, ranks: int, found) -> None:
    assert found[ranks][case]["step 0"] <= STEP_0[case.split(",")[2]]


@pytest.mark.parametrize(
    ("case", "ranks"), [*((case, 2) for case in CASES), *((case, "together") for case in TOGETHER)]
)
def test_two_ranks_train_as_one(case: str, ranks: int | str, models: Path, found) -> None:
    family, head, dtype = case.split(",")[:3]
    start = AutoModelForCausalLM.from_pretrained(models / f"{family}-{head}").state_dict()
    one, two = (found[each][case]["weights"] for each in (1, ranks))
    assert one.keys() == two.keys() == start.keys()
    moved = torch.cat([(one[name] - start[name]).flatten() for name in start]).norm()
    off = torch.cat([(one[name] - two[name]).flatten() for name in start]).norm()
    assert moved > 0.1 and off < ALIKE[dtype] * moved
    assert found[ranks][case]["same on all ranks"]


@pytest.mark.parametrize("case", CASES)
def test_the_exported_weights_are_those_that_were_trained(case: str, models: Path, found) -> None:
    """The last record of the dynamics, made by the engine, is what the exported weights give in an ordinary model."""
    family, head, dtype = case.split(",")[:3]
    policies = []
    for state in (None, found[2][case]["weights"]):
        model = AutoModelForCausalLM.from_pretrained(models / f"{family}-{head}", dtype=getattr(torch, dtype))
        if state is not None:
            model.load_state_dict(state)
        policies.append(PackedPolicy(model))
    start, end = (score(policy, TREES[4:], BRANCHES, 2048) for policy in policies)
    margin = sum(
        (end["chosen"][place] - start["chosen"][place]) - (end["rejected"][place] - start["rejected"][place])
        for place in range(len(TREES) - 4)
    ) / (len(TREES) - 4)
    expected = found[2][case]["dynamics"]["test"]["margin"]
    assert expected > 1 and margin == pytest.approx(
        expected, rel=0.1 if "lora" in case and dtype != "float32" else 0.02
    )
