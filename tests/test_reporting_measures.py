"""What a report measures besides its scores: overlaps, style control, missing verdicts, and the errors of metrics."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focalpo.reporting.overlaps import training_overlaps
from focalpo.reporting.scores import Run, row_scores
from focalpo.reporting.styled import styled
from focalpo.reporting.table_run import TableRun
from focalpo.scoring import stats
from focalpo.scoring.stats import Remembered, win_rate
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.records import ArenaGame, Completion, Pair, Question, write_records


def test_missing_verdicts_are_bounded_by_losing_and_winning_them(tmp_path: Path) -> None:
    """Wins of two prompts and one of weight 3 without a verdict: 3.5 of 5; lost 3.5 of 8, won 6.5 of 8."""
    games = [("a", 1, 1.0, 3), ("a", 2, math.nan, 0), ("b", 1, 0.0, 1), ("b", 2, 0.5, 1)]
    records = [ArenaGame(name, game, "", result, weight) for name, game, result, weight in games]
    folder = sealed(tmp_path, "judge", "dpo", {}, arena_hard=records).path
    found = row_scores([Run("1", {"judge": folder}, {})], None)["arena_hard"]
    assert stats.value(found.metric) == pytest.approx(70.0)
    assert (found.missing, found.worst) == (1, pytest.approx((100 * 3.5 / 8, 100 * 6.5 / 8)))


def sealed(runs: Path, kind: str, name: str, facts: dict, inputs: dict | None = None, **files: list) -> Folder:
    stage = Folder(runs, Stage(kind, name, {"n": name}, {k: folder.stage for k, folder in (inputs or {}).items()}))
    with stage.being_made() as job:
        for file, records in files.items():
            write_records(job.path / f"{file}.parquet", records)
    stage.seal(0.0, facts)
    return stage


def test_overlaps_compare_all_pairs_once_with_the_benchmarks(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "sort: b a"}]
    pairs = sealed(tmp_path, "pairs", "data", {}, train=[Pair("p1", prompt, "a b", "b a")])
    benchmark = sealed(tmp_path, "benchmark", "alpaca_eval", {}, questions=[Question("q1", prompt, "a b")])
    inputs = {"base/dpo/1/pairs": pairs.path, "base/dpo/2/pairs": pairs.path}
    run = TableRun(tmp_path, {}, (), inputs | {"benchmark/base/alpaca_eval": benchmark.path})
    (found,) = training_overlaps(run).items()
    assert found[0] == f"{pairs.path.name} against {benchmark.path.name}" and found[1].exact == [("p1", "q1")]


@pytest.mark.parametrize(("source", "shared"), [("own", 0), ("google/IFEval", 1)])
def test_the_wording_that_prompts_of_ours_share_with_training_prompts_is_no_overlap(
    tmp_path: Path, source: str, shared: int
) -> None:
    wording = " ".join(f"word{place}" for place in range(13))
    asked = [[{"role": "user", "content": f"{topic} {wording}"}] for topic in ("tea", "chess")]
    pairs = sealed(tmp_path, "pairs", "data", {}, train=[Pair("p", asked[0], "a", "b")])
    benchmark = sealed(tmp_path, "benchmark", "ifeval", {"source": source}, questions=[Question("q", asked[1], "")])
    inputs = {"base/dpo/1/pairs": pairs.path, "benchmark/base/ifeval": benchmark.path}
    (found,) = training_overlaps(TableRun(tmp_path, {}, (), inputs)).values()
    assert len(found.gram) == shared


def test_only_hard_prompts_are_scored_with_style_control(tmp_path: Path) -> None:
    """Answers as long as the baseline's: the plain score of the hard prompts, (3 + .5 + 1) / (3 + 1 + 1 + 1)."""
    prompt = [{"role": "user", "content": "ask"}]
    names = ["hard_prompt/1", "hard_prompt/2", "creative_writing/3"]
    benchmark = sealed(tmp_path, "benchmark", "arena_hard", {}, questions=[Question(n, prompt, "four") for n in names])
    answers = [Completion(name, prompt, "ours", 1, True) for name in names]
    generate = sealed(tmp_path, "generate", "dpo-s1", {}, arena_hard=answers)
    results = {"hard_prompt/1": [(1.0, 3), (0.5, 1)], "hard_prompt/2": [(1.0, 1), (0.0, 1)]}
    results["creative_writing/3"] = [(0.0, 3), (0.0, 3)]
    games = [ArenaGame(name, g + 1, "", *results[name][g]) for name in names for g in (0, 1)]
    judge = sealed(tmp_path, "judge", "dpo-s1", {}, arena_hard=games)
    run = Run("1", {"judge": judge.path, "generate": generate.path}, {})
    ((name, (score, at_mean_style)),) = styled({"dpo": [run], "sft": []}, benchmark.path).items()
    assert (name, score.seeds) == ("dpo", ("1",))
    assert stats.value(score.metric) == pytest.approx(100 * 4.5 / 6) == at_mean_style
    columns = {column: stats.value(found.metric) for column, found in row_scores([run], None).items()}
    assert columns == pytest.approx({"hard_prompt": 100 * 4.5 / 6, "creative_writing": 0.0})
    hopeless = sealed(tmp_path, "judge", "sft-s1", {}, arena_hard=[replace(game, result=0.0) for game in games])
    lost = Run("1", {"judge": hopeless.path, "generate": generate.path}, {})
    assert styled({"dpo": [run], "sft": [lost]}, benchmark.path) == {}, "all ratings are fitted together"


def test_a_remembered_metric_resamples_once_and_equals_the_metric() -> None:
    calls = []

    class Counted:
        seeds, prompts = 1, 50

        def scores(self, weights: np.ndarray) -> np.ndarray:
            calls.append(len(weights))
            return metric.scores(weights)

        def left_out(self) -> np.ndarray:
            calls.append(-1)
            return metric.left_out()

    metric = win_rate(np.random.default_rng(0).uniform(1, 2, (1, 50)))
    remembered = Remembered(Counted())
    assert stats.interval(remembered) == stats.interval(metric)
    assert stats.bootstrap_error(remembered) == stats.bootstrap_error(metric)
    assert stats.value(remembered) == stats.value(metric)
    assert (remembered.left_out() == metric.left_out()).all() and remembered.left_out() is remembered.left_out()
    assert calls.count(stats.ROUNDS) == calls.count(-1) == 1


def test_our_error_matches_alpaca_evals_for_one_run_and_arena_hards_is_too_small() -> None:
    """Two equal strong games per prompt count as six battles with the chance of one prompt: sqrt(6) too small."""
    draw = np.random.default_rng(1)
    preference = draw.uniform(1, 2, 400)
    assert stats.bootstrap_error(win_rate(preference[None])) == pytest.approx(
        stats.standard_error(preference), rel=0.03
    )
    games = np.repeat(draw.integers(0, 2, (400, 1)).astype(float), 2, axis=1)
    ours = stats.bootstrap_error(stats.arena_score(games[None], np.full((1, 400, 2), 3.0)))
    assert ours / stats.battle_error(games, np.full((400, 2), 3.0)) == pytest.approx(math.sqrt(6), rel=0.03)
