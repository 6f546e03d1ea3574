"""What recipes.dynamics says about its pairs, and a training that moved none of them."""

from pathlib import Path

import pytest

from focalpo.stages.diagnostics import diagnostics
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.rankings import accuracies, change
from focalpo.stages.records import PairState
from recipes import dynamics

FACTS = {
    "train": 90,
    "test": 10,
    "train_cut_prompts": 0,
    "train_cut_answers": 7,
    "dropped": {"empty response": 3, "train: too long": 2, "test: too long": 0},
    "columns_not_read": ["score"],
    "warnings": ["data: dropped 5"],
}


def moved(by: float) -> dict:
    states = [PairState(step, "test", f"p{n}", -3.0 + by * step, -5.0, 2, 2) for step in (0, 1) for n in range(10)]
    found = change(states, "test")
    return {"test": accuracies(found) | diagnostics(found)}


@pytest.mark.parametrize("by", [0.0, 1.0])
def test_the_command_prints_what_was_dropped_cut_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: float
) -> None:
    def seals(runs: Path, stages: list[Stage], workers: int) -> None:
        for stage in stages:
            facts = {"pairs": FACTS, "train": moved(by)}.get(stage.kind, {})
            with Folder(runs, stage).being_made():
                Folder(runs, stage).seal(1.0, facts)

    monkeypatch.setattr(dynamics, "run_stages", seals)
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    dynamics.compare(["rows=dpo", f"data.path={tmp_path}/pairs.jsonl", f"runs={tmp_path}/runs"])
    lines = capsys.readouterr().out.splitlines()
    assert "90 train, 10 test, 0 train cut prompts, 7 train cut answers" in lines
    assert "dropped: 3 empty response, 2 train: too long" in lines and "columns not read: score" in lines
    assert any("the same 10 held-out pairs" in line for line in lines)
    row, told = [line.split() for line in lines if line.startswith("DPO  ")]
    assert [float(value) for value in row[1:3]] == [1.0 if by else 0.5, 1.0]
    # -KL of two tokens each, three entropies and calibrations that nobody observed, chosen moved by 1 nat
    assert told[1:] == ["-0.2500" if by else "0.0000", "-", "-", "0.0000", f"{by:.4f}", "0.0000", "-", "-"]
    assert ("DPO: training moved no held-out pair; these numbers are no result" in lines) is not bool(by)
