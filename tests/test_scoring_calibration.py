"""Calibration of a judge: every number by hand, and runs over folders of annotations with a known judge."""

import csv
import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focalpo.judging.alpaca_eval import judge_alpaca, model_shown_first
from focalpo.reporting.calibrations import as_csv, as_text, summary, values
from focalpo.scoring.annotated_pairs import read_annotations
from focalpo.scoring.calibration import (
    Calibration,
    Resampled,
    agreement,
    bounds,
    consistency,
    longer_wins,
    position_bias,
    resampled,
    spearman,
    spearman_rounds,
)
from recipes.calibrate_judge import calibrate
from tests.judge_stub import completion, judge_stub, opened
from tests.known_judge import benchmark, protocol

OUTPUTS = re.compile(r'"model_identifier": "(\w)",\s*"output": """(.*?)"""', re.DOTALL)


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float)


def test_agreement_counts_a_tie_half_with_any_winner_and_fully_with_a_tie() -> None:
    # same, same, opposite, tie and win, two ties (0 is an old code for a tie)
    published, judged = array(1.9, 1.2, 1.8, 1.5, 0), array(1.6, 1.4, 1.1, 2.0, 1.5)
    assert agreement(published, judged) == pytest.approx(100 * (1 + 1 + 0 + 0.5 + 1) / 5)


def test_how_often_the_longer_answer_wins() -> None:
    # the model is longer and wins; longer and loses; shorter and loses; equally long; longer in a tie
    preference = array(1.9, 1.2, 1.1, 2.0, 1.5)
    assert longer_wins(preference, array(5, 5, 9, 7, 1), array(9, 6, 5, 7, 2)) == pytest.approx(100 * 2.5 / 4)
    assert longer_wins(preference, array(1, 1, 1, 1, 1), array(1, 1, 1, 1, 1)) is None


def test_position_bias_by_hand() -> None:
    shown_first = np.array([True, False])
    # Always the first: the model if it is first, else the reference; turned, the same preferences for swapped roles.
    always_first = array(2.0, 1.0)
    assert position_bias(always_first, array(2.0, 1.0), shown_first) == pytest.approx(50)
    assert consistency(always_first, array(2.0, 1.0)) == 0
    # Always the model, by 0.8: turned, it has the reference's role, and the other answer gets 0.2.
    assert position_bias(array(1.8, 1.8), array(1.2, 1.2), shown_first) == pytest.approx(0)
    assert consistency(array(1.8, 1.8), array(1.2, 1.2)) == 100
    # 0.7 for the first by position alone on one pair, fair on the other: (0.2 + 0.2 + 0 + 0) / 4
    assert position_bias(array(1.7, 1.5), array(1.7, 1.5), shown_first) == pytest.approx(10)


def test_rank_correlation_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # ranks 1 2 3 4 against 1 3 2 4: 1 - 6 x 2 / (4 x 15)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    # a tie shares its mean rank: 1 2 3 against 1.5 1.5 3 is 1.5 / sqrt(2 x 1.5)
    assert spearman([1, 2, 3], [5, 5, 9]) == pytest.approx(1.5 / np.sqrt(3))
    assert spearman([1, 2], [1, 2]) is None and spearman([1, 2, 3], [5, 5, 5]) is None


def test_model_shown_first_matches_the_library(tmp_path: Path) -> None:
    """Compares the prompts that it sends with our draw."""
    questions, answers = benchmark([place / 20 for place in range(12)])
    with judge_stub(lambda *_: completion("m", {"m": -0.1, "M": -2.0})) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(questions, answers, protocol(12), endpoint)
    first = {dict(OUTPUTS.findall(body["messages"][-1]["content"]))["m"] for body in stub.requests}
    for question, answer in zip(questions, answers, strict=True):
        assert (answer.text in first) == model_shown_first(question.prompt[-1]["content"])
    assert len({model_shown_first(question.prompt[-1]["content"]) for question in questions}) == 2


def test_models_with_other_pairs_have_no_interval_together() -> None:
    """The bootstrap would draw other prompts for each, and call the models independent: too narrow."""
    drawn = Resampled(*np.random.default_rng(0).normal(60, 5, (3, 100)))
    rows = [Calibration(f"m{n}", 400, 60.0, 50.0, 50.0, None, None, None, None, resampled=drawn) for n in (1, 2)]
    assert summary(rows)["agreement_low"] is not None and "have no interval" not in as_text("t", rows)
    rows[1] = replace(rows[1], pairs=399, missing=1)
    assert summary(rows)["agreement_low"] is None and "all models have no interval" in as_text("t", rows)


def test_an_unknown_value_is_a_dash_in_text_and_empty_in_csv() -> None:
    rows = [Calibration(f"m{n}", 10 * n, 80.0, 10.0 * n, 12.0 * n, 60.0, None, None, None) for n in (1, 2, 3)]
    assert summary(rows)["pairs"] == 60 and summary(rows)["spearman_win_rate"] == pytest.approx(1)
    assert summary(rows)["win_rate"] == pytest.approx(20) and summary(rows)["spearman_lc"] is None
    assert "WR 1.000, LC - (too few models, or no LC)" in as_text("a title", rows)
    (*_, last) = csv.DictReader(as_csv(rows).splitlines())
    assert last["model"] == "all models" and last["position_bias"] == "" and float(last["agreement"]) == 80
    with_lc = Calibration("m", 805, 80.0, 30.0, 28.0, 60.0, 55.0, -1.5, 90.0, lc=31.5, lc_published=30.0)
    assert with_lc.lc_shift == pytest.approx(1.5) and " +1.5 " in as_text("t", [with_lc])


def test_a_folder_without_annotations_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no annotations; pass a folder of NAME.json"):
        read_annotations(tmp_path, None)
    (tmp_path / "model.json").write_text('[{"instruction": "do"}]')
    with pytest.raises(ValueError, match=r"model.json: 1 rows \(0\) have no output_1; annotate them again"):
        read_annotations(tmp_path, None)
    (tmp_path / "model.json").write_text('[{"instruction": "do", "output_1": "a", "output_2": "b", "preference": NaN}]')
    with pytest.raises(ValueError, match="model.json holds no row with a preference"):
        read_annotations(tmp_path, None)


def longest(body: dict, _: int) -> dict:
    """A judge that prefers the longer answer and, at equal length, the one shown first."""
    shown = dict(OUTPUTS.findall(body["messages"][-1]["content"]))
    best = "m" if len(shown["m"]) >= len(shown["M"]) else "M"
    return completion(best, {"m": -0.01 if best == "m" else -9.0, "M": -0.01 if best == "M" else -9.0})


def write_annotations(folder: Path, models: int, pairs: int) -> None:
    """Model n answers with n letters more than the reference; the published judge prefers it in n of ten pairs."""
    folder.mkdir()
    for n in range(1, models + 1):
        rows = [
            {
                "instruction": f"say something about {place}",
                "output_1": "r" * 20,
                "output_2": "m" * (20 + n),
                "preference": 2.0 if place % 10 < n else 1.0,
            }
            for place in range(pairs)
        ]
        (folder / f"model-{n}.json").write_text(json.dumps(rows))


def calibration(folder: Path, url: str, out: Path, *more: str) -> list[dict[str, str]]:
    endpoint = [f"judge.endpoint.base_url={url}", "judge.endpoint.concurrency=4"]
    calibrate([f"annotations={folder}", f"out={out}", *endpoint, *more])
    (written,) = out.glob("*/calibration.csv")
    return list(csv.DictReader(written.read_text().splitlines()))


def test_a_length_judge_is_detected_and_no_request_is_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_annotations(tmp_path / "published", models=3, pairs=20)
    with judge_stub(longest) as stub:
        rows = calibration(tmp_path / "published", stub.url, tmp_path / "out")
        assert len(stub.requests) == 3 * 20 * 2
        again = calibration(tmp_path / "published", stub.url, tmp_path / "out")
    assert len(stub.requests) == 3 * 20 * 2 and again == rows
    for n, row in enumerate(rows[:3], start=1):
        assert float(row["agreement"]) == pytest.approx(
            10 * n
        )  # it always prefers the model, the published one n of ten
        assert float(row["win_rate"]) > 99 and float(row["win_rate_published"]) == pytest.approx(10 * n)
        assert float(row["longer"]) == 100 and float(row["longer_published"]) == pytest.approx(10 * n)
        assert float(row["position_bias"]) == pytest.approx(0, abs=1e-6) and float(row["consistency"]) == 100
        assert row["lc"] == ""
    output = capsys.readouterr().out
    assert "3 models will take 120 requests" in output and "longer wins %" in output and "all models" in output


def test_a_pair_without_a_verdict_is_left_out_for_both_judges(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of 20 pairs one has no verdict, one only in the other order; the numbers are those of the others alone."""

    def mostly(body: dict, times: int) -> dict:
        text = body["messages"][-1]["content"]
        shown = dict(OUTPUTS.findall(text))
        turned = (len(shown["m"]) > len(shown["M"])) != model_shown_first(
            re.search('"instruction": """(.*?)"""', text)[1]
        )
        silent = 'about 4"' in text or ('about 9"' in text and turned)
        refused.extend([turned] * silent)
        return completion("neither") if silent else longest(body, times)

    refused: list[bool] = []
    write_annotations(tmp_path / "published", models=1, pairs=20)
    some = ["judge.most_missing=0.1", "judge.endpoint.max_attempts=1"]
    with judge_stub(mostly) as stub:
        row, all_models = calibration(tmp_path / "published", stub.url, tmp_path / "out", *some)
        assert sorted(refused) == [False, True, True], "pair 4 in both orders, pair 9 in the other one"
        with pytest.raises(ValueError, match=r"no verdict for 1 rows \(4\).*at most 0 of 20 may be missing"):
            calibration(tmp_path / "published", stub.url, tmp_path / "out", "judge.most_missing=0.04", some[1])
    assert (row["pairs"], row["missing"], float(all_models["missing"])) == ("19", "1", 1)
    # The published judge prefers the model in pairs 0 and 10 of 20, of which pair 4 is gone; this one in all.
    assert float(row["agreement"]) == float(row["win_rate_published"]) == pytest.approx(100 * 2 / 19)
    assert float(row["longer"]) == 100 and float(row["longer_published"]) == pytest.approx(100 * 2 / 19)
    assert float(row["consistency"]) == 100 and float(row["position_bias"]) == pytest.approx(0, abs=1e-6)
    out = capsys.readouterr().out
    assert "no verdict, left out for both judges: 1 rows (4)" in out and "both judges: model-1 1 pairs." in out


def test_published_annotations_judged_by_length_alone(tmp_path: Path, shared_data: Path) -> None:
    """Against a direct computation from the files: agreement, longer wins, and the published LC."""
    with judge_stub(longest) as stub:
        gamed = f"gamed={shared_data / 'df_gamed_reconstructed.csv'}"
        folder = tmp_path / "annotations"
        folder.mkdir()
        shutil.copy(shared_data / "alpaca_eval_annotations/claude-2.json.gz", folder)
        (row, _) = calibration(folder, stub.url, tmp_path / "out", gamed, "both_orders=false")
    with gzip.open(folder / "claude-2.json.gz", "rt") as file:
        rows = json.load(file)
    same = 0.0
    for each in rows:
        model, reference = len(each["output_2"]), len(each["output_1"])
        shown_first = model_shown_first(each["instruction"])
        longer = model > reference or (model == reference and shown_first)
        judged = 0.5 if each["output_1"] == each["output_2"] else longer
        published = 0.5 if each["preference"] in (0, 1.5) else each["preference"] > 1.5
        same += 1 - abs(judged - published)
    assert float(row["agreement"]) == pytest.approx(100 * same / 805)
    assert float(row["longer"]) == 100 and row["position_bias"] == ""
    with (shared_data / "ae2_leaderboard.csv").open() as file:
        (board,) = (line for line in csv.DictReader(file) if line[""] == "claude-2")
    assert float(row["win_rate_published"]) == pytest.approx(float(board["win_rate"]), abs=2e-14)
    lc = float(board["length_controlled_winrate"])
    assert float(row["lc_published"]) == pytest.approx(lc, abs=6e-7)  # the gamed rows are a reconstruction
    assert float(row["lc_shift"]) == pytest.approx(float(row["lc"]) - float(row["lc_published"]))


def test_intervals_of_a_calibration_by_hand_and_in_every_format() -> None:
    """400 pairs agree in 300: 75% with a standard error of 2.17 points; equal judges rank equally in every round."""
    draw = np.random.default_rng(0)
    published = 1 + (draw.random((4, 400)) < np.array([[0.05], [0.35], [0.65], [0.95]]))
    judged = published.copy()
    judged[:, :100] = 3 - judged[:, :100]
    lengths = np.ones(400), np.ones(400)
    rows = []
    for n, (one, other) in enumerate(zip(published, judged, strict=True)):
        rates = float(100 * (other - 1).mean()), float(100 * (one - 1).mean())
        drawn = resampled(one, other, lengths, None)
        rows.append(Calibration(f"m{n}", 400, agreement(one, other), *rates, *[None] * 4, resampled=drawn))
    ends = values(rows[0])
    assert rows[0].agreement == 75.0
    assert (ends["agreement_low"], ends["agreement_high"]) == pytest.approx((75 - 4.24, 75 + 4.24), abs=0.6)
    assert ends["lc_shift_low"] is None
    text = as_text("t", rows)
    assert f"75.0 [{ends['agreement_low']:.1f}, {ends['agreement_high']:.1f}]" in text
    over_all = summary(rows)
    assert [over_all[f"spearman_win_rate_{end}"] for end in ("low", "high")] == pytest.approx([1.0, 1.0])
    assert "WR 1.000 [1.000, 1.000]" in text
    *_, last = csv.DictReader(as_csv(rows).splitlines())
    assert float(last["agreement_low"]) < 75 < float(last["agreement_high"]) and last["lc_shift_low"] == ""


def test_the_interval_of_a_rank_correlation_is_that_of_its_rounds() -> None:
    """By hand, three models in two rounds: the same order gives 1, the reverse -1; equal scores give nothing."""
    published = [np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.0, 1.0]), np.array([3.0, 3.0, 1.0])]
    judged = [np.array([5.0, 7.0, 1.0]), np.array([6.0, 6.0, 2.0]), np.array([7.0, 5.0, 3.0])]
    found = spearman_rounds(published, judged)
    assert found[:2] == pytest.approx([1.0, -1.0]) and np.isnan(found[2])
    assert bounds(found) == pytest.approx((-0.95, 0.95)) and spearman_rounds(published[:2], judged[:2]) is None
