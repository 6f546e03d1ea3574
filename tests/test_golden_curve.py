"""Twenty steps of DPO and FocalPO on a tiny model match the recorded losses, so that no drift goes unnoticed.

A change without numeric effect keeps the recording; a change with one records it again, in a separate commit.
"""

import json
from pathlib import Path

import pytest

from focalpo.stages.folder import Job
from focalpo.stages.records import read_json_lines
from focalpo.stages.track import Tracker, TrackSettings
from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import OBJECTIVES
from focalpo.training.scoring import score
from tests.tiny import SETTINGS, random_trees, tiny_model

FILE = Path(__file__).parent / "golden" / "curve.json"


def curve(name: str, folder: Path) -> list[float]:
    """The loss of each of 20 steps."""
    start_ranks()
    folder.mkdir()
    trees = random_trees(80, seed=21, longest=12)
    for tree in trees:
        tree.branches["chosen"][0] = 5  # what to learn: a chosen answer begins with token 5
    branches = ("chosen", "rejected")
    reference = score(PackedPolicy(tiny_model(seed=1)), trees, branches, 1 << 20)
    engine = open_engine(PackedPolicy(tiny_model(seed=1)), SETTINGS)
    tracker = Tracker(Job("train", name, "", {}, {}, folder, {}), TrackSettings())
    train(
        engine,
        OBJECTIVES[name](beta=0.3),
        Examples(trees, reference, []),
        SETTINGS,
        seed=3,
        checkpoints=folder,
        tracker=tracker,
    )
    return [row["loss"] for row in read_json_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize("name", ["dpo", "focalpo"])
def test_the_curve_is_the_recorded_one(name: str, tmp_path: Path) -> None:
    found = curve(name, tmp_path / name)
    assert len(found) == 20
    assert found == pytest.approx(json.loads(FILE.read_text())["loss"][name], abs=1e-4)


def test_the_curves_start_at_their_constants_and_fall() -> None:
    """L0 = 0.5^gamma ln 2: .693147 for DPO and .669536 for FocalPO at gamma .05 (policy = reference)."""
    loss = json.loads(FILE.read_text())["loss"]
    assert loss["dpo"][0] == pytest.approx(0.693147, abs=1e-5)
    assert loss["focalpo"][0] == pytest.approx(0.669536, abs=1e-5)
    assert loss["dpo"][-1] < 0.5 and loss["focalpo"][-1] < 0.5
