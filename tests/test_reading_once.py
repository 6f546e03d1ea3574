"""A checkpoint is read once for all ranks, also for more ranks than saved it, and gives every rank the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.reading_cases import CASES
from tests.tiny import tiny_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks found that trained and resumed, and three that resumed from what the two had saved."""
    root = tmp_path_factory.mktemp("once")
    tiny_model(hidden_size=64).save_pretrained(root / "model")
    for ranks, what in ((2, "train"), (3, "resume")):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, *launcher, "-m", "tests.reading_cases", str(root / "model"), str(root), what]
        ran = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
        assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    return root


@pytest.mark.parametrize("what, ranks", [("train", 2), ("resume", 3)])
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_read_by_one_rank_and_all_ranks_hold_it(out: Path, case: str, what: str, ranks: int) -> None:
    parts = sorted((out / case).glob("step-*/*.safetensors"))
    saved = [name for part in parts for name in safe_open(part, "pt").keys()]
    found = torch.load(out / f"{what}-{case}.pt")
    assert len(parts) > ranks and len(found["read"]) == ranks
    assert sorted(name for names in found["read"] for name in names) == sorted(saved)
    assert max(len(names) for names in found["read"]) <= 0.6 * len(saved)
    assert found["equal"]


def test_a_start_model_is_read_by_one_rank_and_no_rank_holds_all_of_it(out: Path) -> None:
    first, second = torch.load(out / "loaded.pt")
    assert (first["copied"], second["copied"]) == (first["all"], 0)
    assert first["mapped"] and second["mapped"], "the host holds a copy of the file"
    assert first["held"] == second["held"] <= 0.51 * first["all"]
