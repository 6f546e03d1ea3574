"""Pocket scale's answers as pairs, and its benchmarks in the files that AlpacaEval and Arena-Hard publish."""

import csv
import json
import statistics

import pytest

from focalpo.pocket import benchmarks, datasets
from focalpo.pocket.benchmarks import benchmark_prompts, benchmark_tasks, write_benchmark
from focalpo.pocket.judge import preference
from focalpo.pocket.world import CONTENT, KINDS, gold_reward, is_correct
from focalpo.stages.records import Completion


def completion(text: str, finished: bool = True) -> Completion:
    return Completion("p7", datasets.as_messages("copy these words : ant bird"), text, len(text.split()), finished)


def test_samples_are_paired_best_against_worst_of_the_gold_reward():
    # Gold 2.4, 0.5, 0, -2.25: gaps of at least 6 standard deviations of the rating noise at both ends.
    best, worst = completion("sure : ant bird ."), completion("pleasure " * 40, finished=False)
    samples = [[completion("ant"), best, worst, completion("cat")]] * 50
    pairs = datasets.rate_samples(samples, 0, 0.0)
    assert {(pair.chosen, pair.rejected, pair.mislabelled, pair.id) for pair in pairs} == {
        (best.text, worst.text, False, "p7")
    }
    assert all(pair.mislabelled for pair in datasets.rate_samples(samples, 0, 1.0))


def test_an_unfinished_sample_loses_to_its_finished_twin_five_times_in_six_or_more():
    # The gap is 0.65, the noise of a difference 0.3 * sqrt(2): Phi(1.53) = 0.937.
    samples = [[completion("ant bird", finished=False), completion("ant bird .")]] * 1000
    won = statistics.fmean(pair.chosen == "ant bird ." for pair in datasets.rate_samples(samples, 0, 0.0))
    assert won == pytest.approx(0.937, abs=0.03)


def test_equal_samples_make_no_pair_and_a_single_one_is_an_error():
    assert datasets.rate_samples([[completion("ant"), completion("ant")]], 0, 0.0) == []
    with pytest.raises(ValueError, match="at least two completions"):
        datasets.rate_samples([[completion("ant")]], 0, 0.0)


def test_benchmarks_are_disjoint_unique_and_the_hard_one_holds_hard_kinds():
    tasks = benchmark_tasks()
    assert {name: len(drawn) for name, drawn in tasks.items()} == {"alpaca_eval": 400, "arena_hard": 200}
    assert {task.kind for task in tasks["alpaca_eval"]} == set(KINDS)
    assert {task.kind for task in tasks["arena_hard"]} == {"sort", "reverse", "initials", "remove", "max", "add"}


def test_alpaca_eval_files_have_the_published_columns_and_our_judges_preferences(tmp_path):
    write_benchmark("alpaca_eval", tmp_path)
    examples = json.loads((tmp_path / "alpaca_eval.json").read_text())
    assert len(examples) == 400
    assert all(list(row) == ["instruction", "output", "generator", "dataset"] for row in examples)
    with (tmp_path / "instruction_difficulty.csv").open() as file:
        difficulty = {int(row["index"]): float(row["instruction_difficulty"]) for row in csv.DictReader(file)}
    assert list(difficulty) == list(range(400)) and difficulty[0] == 0.0
    with (tmp_path / "df_gamed.csv").open() as file:
        gamed = list(csv.DictReader(file))
    columns = "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"
    assert len(gamed) == 800 and ",".join(gamed[0]) == columns
    for model in ("pocket_reference_verbose", "pocket_reference_concise"):
        rows = [row for row in gamed if row["model"] == model]
        assert [int(row["index"]) for row in rows] == list(range(400))
        assert [float(row["instruction_difficulty"]) for row in rows] == list(difficulty.values())
        assert {row["not_gamed_baseline"] for row in rows} == {"False"}
        assert statistics.stdev(float(row["std_delta_len"]) for row in rows) == pytest.approx(1.0)
    concise = [row for row in gamed if row["model"] == "pocket_reference_concise"]
    shorter = [" ".join(token for token in row["output"].split() if token in CONTENT) for row in examples]
    deltas = [len(row["output"]) - len(text) for row, text in zip(examples, shorter, strict=True)]
    spread = statistics.stdev(deltas)
    for row, example, text, delta in zip(concise, examples, shorter, deltas, strict=True):
        assert float(row["std_delta_len"]) == pytest.approx(delta / spread)
        assert float(row["preference"]) == pytest.approx(preference(example["instruction"], text, example["output"]))


def test_a_hard_to_beat_reference_makes_a_difficult_instruction(tmp_path):
    write_benchmark("alpaca_eval", tmp_path)
    examples = json.loads((tmp_path / "alpaca_eval.json").read_text())
    with (tmp_path / "instruction_difficulty.csv").open() as file:
        values = [float(row["instruction_difficulty"]) for row in csv.DictReader(file)]
    golds = [gold_reward(row["instruction"], row["output"], True) for row in examples]
    assert statistics.correlation(values, golds) < -0.9  # higher values are easier to win


def test_arena_hard_files_join_questions_and_baseline_by_uid(tmp_path):
    write_benchmark("arena_hard", tmp_path)
    questions, baseline = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("question", "baseline")
    )
    assert len(questions) == 200 and all(list(row) == ["uid", "category", "cluster", "prompt"] for row in questions)
    assert [row["uid"] for row in questions] == [row["uid"] for row in baseline]
    assert len({row["uid"] for row in questions}) == 200
    right = [is_correct(q["prompt"], b["answer"], True) for q, b in zip(questions, baseline, strict=True)]
    assert statistics.fmean(right) == pytest.approx(0.8, abs=0.1)  # the good writer


def test_fewer_rows_are_the_first_rows_and_too_many_are_rejected(tmp_path):
    for name in ("all", "few"):
        (tmp_path / name).mkdir()
    write_benchmark("alpaca_eval", tmp_path / "all")
    write_benchmark("alpaca_eval", tmp_path / "few", rows=10)
    few, every = (json.loads((tmp_path / name / "alpaca_eval.json").read_text()) for name in ("few", "all"))
    assert few == every[:10]
    with pytest.raises(ValueError, match="2 to 200 rows, got rows=201"):
        write_benchmark("arena_hard", tmp_path, rows=201)
    with pytest.raises(ValueError, match="'mt_bench' is not a pocket benchmark"):
        write_benchmark("mt_bench", tmp_path)


def test_the_benchmark_seed_changes_the_held_out_prompts():
    other = benchmark_prompts(benchmarks.BENCHMARK_SEED + 1)
    assert len(benchmark_prompts() & other) < 60
