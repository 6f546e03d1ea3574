"""Evaluation during training: the objective's own loss and rewards on the test split, by hand, logged once per step."""

import math
from pathlib import Path

import pytest

from focalpo.stages.folder import Job
from focalpo.stages.metrics import DIAGNOSTICS, METRICS
from focalpo.stages.records import PairState, read_json_lines
from focalpo.stages.track import Tracker
from focalpo.stages.track_settings import TrackSettings
from focalpo.training import watch as watch_module
from focalpo.training.evaluation import evaluation, with_margins
from focalpo.training.objective import OBJECTIVES
from focalpo.training.watch import Watch

START = [PairState(0, "test", "a", -10.0, -12.0, 2, 4), PairState(0, "test", "b", -20.0, -15.0, 5, 3)]
NOW = [PairState(7, "test", "a", -8.0, -16.0, 2, 4), PairState(7, "test", "b", -26.0, -11.0, 5, 3)]
# chosen +2 and -6 nats, rejected -4 and +4: margins 6 and -10 nats, rewards by beta 0.5
MARGINS = (3.0, -5.0)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_dpo_by_hand() -> None:
    assert evaluation(OBJECTIVES["dpo"](beta=0.5), START, NOW) == pytest.approx(
        {
            "loss": (softplus(-3.0) + softplus(5.0)) / 2,
            "logps_chosen": -17.0,
            "logps_rejected": -13.5,
            "reward_chosen": -1.0,
            "reward_rejected": 0.0,
            "reward_margin": -1.0,
            "reward_accuracy": 0.5,
        }
    )


def test_focalpo_by_hand() -> None:
    found = evaluation(OBJECTIVES["focalpo"](beta=0.5, gamma=0.5), START, NOW)
    p = [1 / (1 + math.exp(-margin)) for margin in MARGINS]
    assert found["loss"] == pytest.approx(sum(-math.sqrt(each) * math.log(each) for each in p) / 2)


def test_a_policy_that_is_its_reference_has_the_first_loss_and_is_half_right() -> None:
    found = evaluation(OBJECTIVES["focalpo"](gamma=0.05), START, START)
    assert found["loss"] == pytest.approx(0.5**0.05 * math.log(2))
    assert (found["reward_accuracy"], found["reward_margin"]) == (0.5, 0.0)


def test_the_mean_length_is_that_of_the_split() -> None:
    """SFT's loss: -lp / mean |w| = (8 / 3.5 + 26 / 3.5) / 2; it ranks nothing, so it has no reward."""
    found = evaluation(OBJECTIVES["sft"](), START, NOW)
    assert found["loss"] == pytest.approx(34 / 7) and "reward_margin" not in found


def test_what_is_not_recorded_is_left_out_and_the_rest_is_there() -> None:
    assert evaluation(OBJECTIVES["kto"](), START, NOW) == {"logps_chosen": -17.0, "logps_rejected": -13.5}


def test_the_margin_of_each_pair_is_the_objectives_own() -> None:
    assert [state.reward_margin for state in with_margins(OBJECTIVES["dpo"](beta=0.5), START, NOW)] == list(MARGINS)
    simpo = with_margins(OBJECTIVES["simpo"](beta=2.0), START, NOW)  # 2 (-8/2 + 16/4) and 2 (-26/5 + 11/3), without ref
    assert [state.reward_margin for state in simpo] == pytest.approx([0.0, 2 * (-26 / 5 + 11 / 3)])
    for name in ("kto", "wpo", "sft"):
        assert with_margins(OBJECTIVES[name](), START, NOW) == NOW, "no rewards here"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_can_be_evaluated(name: str) -> None:
    assert all(map(math.isfinite, evaluation(OBJECTIVES[name](), START, NOW).values()))


def tracker(folder: Path) -> Tracker:
    job = Job("train", "a-s1", "0123456789ab", settings={}, launch={}, inputs={}, path=folder)
    return Tracker(job, TrackSettings(wandb="off", project="none"))


def test_a_watch_evaluates_where_it_records_and_a_resumed_run_has_each_evaluation_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of step s is worth s nats more on every chosen answer; the second start resumes at step 4."""
    policy = {"step": 0}

    def observed(engine, trees, budget, step, split, mislabelled):
        return [PairState(step, split, each, -10.0 + policy["step"], -12.0, 2, 1) for each in trees]

    monkeypatch.setattr(watch_module, "observed", observed)

    def start(steps: range) -> None:
        follower = tracker(tmp_path)
        watch = Watch([], ["a"], {}, 2, 64, tmp_path, OBJECTIVES["dpo"](beta=1.0), follower)
        follower.resume_at(steps[0])
        for policy["step"] in steps:
            watch.look(None, policy["step"], 8)

    start(range(0, 6))
    start(range(4, 9))
    rows = read_json_lines(tmp_path / "evaluation.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8]
    assert [row["reward_margin"] for row in rows] == [0, 2, 4, 6, 8], "the reference is the policy at step 0"
    assert [row["loss"] for row in rows] == pytest.approx([softplus(-step) for step in (0, 2, 4, 6, 8)])
    assert [row["change_chosen"] for row in rows] == [0, 2, 4, 6, 8]
    assert [row["kl_answers"] for row in rows] == pytest.approx([-step / 3 for step in (0, 2, 4, 6, 8)])
    assert [row["brier"] for row in rows] == pytest.approx([(1 + math.exp(step)) ** -2 for step in (0, 2, 4, 6, 8)])
    assert not {"entropy_chosen", "ches"} & rows[0].keys(), "nothing is written for what was not observed"
    known = METRICS.keys() | DIAGNOSTICS.keys() | {"step"}
    assert not {name for row in rows for name in row} - known, "add a line to focalpo/stages/metrics.py"
