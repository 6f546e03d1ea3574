"""Benchmarks checked by code: counts equal lm-eval's own, levels and intervals by hand, a table without a judge."""

import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from focalpo.checking.instructions import _checkers, followed
from focalpo.checking.layouts import hub_rows as read_hub_rows
from focalpo.config.compose import CONF, compose
from focalpo.planning.stages import row_stages
from focalpo.planning.table import planned
from focalpo.reporting.scores import prompt_score
from focalpo.reporting.table_run import TableRun
from focalpo.scoring.differences import paired_difference
from focalpo.scoring.levels import accuracy, level_points
from focalpo.scoring.stats import interval
from focalpo.stages.folder import Folder, Job
from focalpo.stages.metrics import LEVELS, column_of, extra_title
from focalpo.stages.records import Completion, Followed, PromptScore, Question, read_records, write_records
from recipes import check
from recipes.doctor import blocking
from recipes.why import why
from rehearsal.benchmarks import protocol_over, repository_of
from tests import sealed_table
from tests.conftest import made
from tests.instructed import KINDS, answer, hub_row, hub_rows, write_benchmark
from tests.sealed_table import sealed_stages

PHASES = ("pretraining", "sft")
NO_COMMA = "punctuation:no_comma"
HOW = {"questions": "ifeval", "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 20}


def overrides(protocol: Path, *names: str, judged: bool = False) -> list[str]:
    """The pocket table with these sets of answers to one benchmark that is checked by code, and no judge."""
    values = yaml.safe_load((CONF / "generate" / "pocket.yaml").read_text())
    sets = (values["sets"] if judged else {}) | dict.fromkeys(names, HOW)
    folder = protocol.parent / "-".join(["conf", *names, str(judged)])
    (folder / "generate").mkdir(parents=True, exist_ok=True)
    (folder / "generate" / "own.yaml").write_text(yaml.safe_dump(values | {"sets": json.loads(json.dumps(sets))}))
    benchmark = [f"+check.benchmarks.ifeval={protocol.with_suffix('')}", f"check.folder={protocol.parent}"]
    return [f"hydra.searchpath=[{folder}]", "generate=own", *benchmark, *([] if judged else ["judge=none"])]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sealed report of a table of two sets of answers, no judge, and no model: its answers are drawn."""
    folder = tmp_path_factory.mktemp("checked")
    protocol = write_benchmark(folder / "eval", hub_rows(60))
    rows = ["settings=base", "rows=sft,dpo,focalpo", "seeds=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sealed_table.MAKERS, "generate", drawn_answers)
        plan = planned([*rows, *overrides(protocol, "ifeval", "ifeval_new")])
        return made(sealed_stages(folder / "runs", plan.report))


def drawn_answers(job: Job) -> dict:
    draw, facts = random.Random(job.key), {}
    for name, values in job.settings["sets"].items():
        questions = read_records(job.inputs[values["questions"]] / "questions.parquet", Question)
        completions = [Completion(q.id, q.prompt, answer(draw), 6, True) for q in questions]
        write_records(job.path / f"{name}.parquet", completions)
        facts[name] = {"tokens": 6.0, "unfinished": 0.0}
    return facts


def cells(report: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (report / "table1.csv").open() as file:
        return {(line["row"], line["column"]): line for line in csv.DictReader(file)}


def test_counts_equal_those_of_lm_eval_on_200_answers(tmp_path: Path) -> None:
    """Every number that `lm_eval --tasks ifeval` prints, of answers that follow some of twenty kinds."""
    rows, draw = hub_rows(200), random.Random(1)
    write_benchmark(tmp_path, rows)
    prompts = read_hub_rows(tmp_path / "prompts.jsonl")
    texts = [answer(draw) for _ in rows]
    ours = [followed(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    utils = _checkers()
    theirs = [utils.process_results(row, [text]) for row, text in zip(rows, texts, strict=True)]
    assert len({kind for row in rows for kind in row["instruction_id_list"]}) == len(KINDS) == 20
    for how in ("strict", "loose"):
        points = {level: level_points(ours, level, how == "loose") for level in LEVELS}
        assert [bool(each.points) for each in points["prompt"]] == [each[f"prompt_level_{how}_acc"] for each in theirs]
        listed = [each[f"inst_level_{how}_acc"] for each in theirs]
        assert [getattr(each, how) for each in ours] == listed
        assert accuracy(points["instruction"]) == pytest.approx(100 * utils.agg_inst_level_acc(listed))
        assert 3 < accuracy(points["prompt"]) < accuracy(points["instruction"]) < 95
    assert accuracy(level_points(ours, "prompt")) < accuracy(level_points(ours, "prompt", loose=True))


def test_levels_by_hand() -> None:
    """Three prompts with 1, 2 and 3 instructions, of which 1, 1 and 2 are followed strictly: 1/3 and 4/6."""
    answers = [
        Followed("a", [True], [True]),
        Followed("b", [True, False], [True, True]),
        Followed("c", [True, False, True], [True, False, True]),
    ]
    prompts = [("a", 1.0, 1.0), ("b", 0.0, 1.0), ("c", 0.0, 1.0)]
    assert level_points(answers, "prompt") == [PromptScore(*each) for each in prompts]
    instructions = [("a", 1.0, 1.0), ("b", 1.0, 2.0), ("c", 2.0, 3.0)]
    assert level_points(answers, "instruction") == [PromptScore(*each) for each in instructions]
    found = [accuracy(level_points(answers, level, loose)) for level in LEVELS for loose in (False, True)]
    assert found == pytest.approx([100 / 3, 200 / 3, 400 / 6, 500 / 6])


def test_intervals_equal_a_naive_bootstrap_and_the_librarys_error_is_that_of_a_mean() -> None:
    """Loops over rounds that draw prompts, and seeds, and sum the points of what was drawn."""
    draw = random.Random(3)
    most = [draw.randint(1, 3) for _ in range(80)]
    runs = [[PromptScore(str(n), float(draw.randint(0, m)), float(m)) for n, m in enumerate(most)] for _ in range(3)]
    found = interval(prompt_score(runs, ("1", "2", "3")).metric)
    scores = []
    for _ in range(4000):
        prompts, seeds = draw.choices(range(80), k=80), draw.choices(range(3), k=3)
        right = [sum(runs[seed][n].points for n in prompts) for seed in seeds]
        scores.append(sum(100 * each / sum(most[n] for n in prompts) for each in right) / 3)
    low, high = np.percentile(scores, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.6)
    assert found.value == pytest.approx(np.mean([accuracy(run) for run in runs]))
    assert np.isnan(prompt_score(runs, ("1", "2", "3")).library_se), "prompts that can earn different amounts"
    some = [[PromptScore(str(n), float(n < 20), 1.0) for n in range(80)]]
    error = prompt_score(some, ("1",)).library_se
    assert error == pytest.approx(100 * np.sqrt(0.25 * 0.75 / 79)), "a proportion's, with 79 degrees of freedom"
    more = [[PromptScore(str(n), float(n < 40), 1.0) for n in range(80)]]
    gap = paired_difference(*(prompt_score(each, ("1",)).metric for each in (more, some)), True)
    assert gap.value == pytest.approx(25.0) and gap.low > 0 and gap.p < 0.01


def test_a_table_without_a_judge_has_the_columns_that_were_checked(report: Path) -> None:
    run, found = TableRun.read(report), cells(report)
    columns = [f"{name}_{level}" for name in ("ifeval", "ifeval_new") for level in LEVELS]
    assert [column for row, column in found if row == "dpo" and found[row, column]["low"] != "-"] == columns
    for row in ("sft", "dpo", "focalpo"):
        folders = run.seeds("base", row, "check").values()
        for name in ("ifeval", "ifeval_new"):
            runs = [read_records(folder / f"{name}.parquet", Followed) for folder in folders]
            for column, how in ((f"{name}_prompt", "strict"), (f"{name}_prompt_loose", "loose")):
                right = [np.mean([all(getattr(each, how)) for each in answers]) for answers in runs]
                assert float(found[row, column]["value"]) == pytest.approx(100 * np.mean(right))
        cell = found[row, "ifeval_prompt"]
        assert cell["seeds"] == "2" and cell["prompts"] == "60" and cell["library_se"] != "-"
        assert found[row, "ifeval_instruction"]["library_se"] == "-"
        assert found[row, "tokens"]["value"] == "6.0", "of the first set, as there is no AlpacaEval"
    compared = [line for line in found.values() if line["p_holm"] != "-"]
    assert len(compared) == 8 and all(float(line["p_holm"]) >= float(line["p"]) for line in compared)
    assert not (report / "figures" / "length.png").exists() and (report / "figures" / "table1.png").exists()


def test_every_format_shows_the_checked_columns(report: Path) -> None:
    titles = ["IFEval prompt", "IFEval instruction", "new kinds, prompt", "new kinds, instruction"]
    names = [f"{name}_{level}" for name in ("ifeval", "ifeval_new") for level in LEVELS]
    assert [column_of(name).title for name in names] == titles
    for name in ("table1.md", "table1.tex", "report.md", "report.tex", "report.html", "summary.md"):
        text = (report / name).read_text()
        assert all(title in text for title in titles), name
        assert "AlpacaEval" not in text and "Arena-Hard WR" not in text, name
    text = (report / "table1.txt").read_text()
    assert "IF prompt" in text and "new instr" in text and max(map(len, text.splitlines())) <= 100
    assert "No model judged" in (report / "checklist.md").read_text()
    assert "Checked by code, strictly" in (report / "report.md").read_text()
    assert extra_title("ifeval_prompt_loose") == "IFEval prompt, loose %"


def test_answers_beside_each_other_say_which_instructions_they_follow(report: Path) -> None:
    text = (report / "answers" / "base-dpo.js").read_text()
    answers = json.loads(text[text.index(",") + 1 : text.rindex(")")])
    assert answers.keys() == {"ifeval", "ifeval_new"}
    words = {name.replace(":", ": ").replace("_", " ") for name in KINDS}
    for each in answers["ifeval"]:
        parts = each["result"].removeprefix("instructions followed: ").split("; not followed: ")
        followed, *missed = ([] if part == "none" else part.split(", ") for part in parts)
        kinds = [*followed, *sum(missed, [])]
        assert each["score"] == len(followed) / len(kinds) and set(kinds) <= words
    questions = (report / "answers" / "base-questions.js").read_text()
    assert questions.count('"reference":""') == 120, "both sets have the benchmark's questions, none a reference"


def test_why_shows_the_stages_behind_a_checked_number(report: Path) -> None:
    text = why("focalpo/base/ifeval_instruction", [report])
    assert "IFEval instruction" in text and "check/base-focalpo-s1" in text and "judge/" not in text
    assert "make setup EXTRAS=dev,laptop" in text
    with pytest.raises(ValueError, match=r"no report has a number for 'focalpo/base/ae2_lc'.*ifeval_prompt"):
        why("focalpo/base/ae2_lc", [report])


def test_a_row_has_the_stages_that_its_benchmarks_need(tmp_path: Path) -> None:
    protocol = write_benchmark(tmp_path, hub_rows(4))
    alone = row_stages(compose(overrides(protocol, "ifeval", "ifeval_new")), "a")
    assert alone.judge is None and [stage.kind for stage in alone.scored()] == ["check"]
    assert alone.check is not None and alone.check.settings["sets"] == {"ifeval": "ifeval", "ifeval_new": "ifeval"}
    both = row_stages(compose(overrides(protocol, "ifeval", judged=True)), "a")
    assert [stage.kind for stage in both.scored()] == ["judge", "check"] and both.judge is not None
    assert set(both.judge.inputs) == {"completions", "alpaca_eval", "arena_hard"}, "the judge sees none of it"
    assert row_stages(compose([]), "a").check is None
    other = write_benchmark(tmp_path, hub_rows(4), library="0.5.0")
    changed = row_stages(compose(overrides(other, "ifeval", "ifeval_new")), "a")
    assert changed.check is not None and changed.check.key != alone.check.key, "another version checks differently"


def test_a_protocol_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this protocol is of the other kind; name it in check.benchmarks"):
        row_stages(compose(["judge.benchmarks.arena_hard=ifeval"]), "a")
    judged = [
        each.replace(str(tmp_path / "own"), "pocket_arena_hard") for each in overrides(tmp_path / "own", "ifeval")
    ]
    with pytest.raises(ValueError, match=r"this protocol is of the other kind; name it in judge.benchmarks"):
        row_stages(compose(judged), "a")


def test_missing_data_and_another_version_are_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nltk.data.path", [])
    rows, sentences = [hub_row(1, [NO_COMMA])], "length_constraints:number_sentences"
    protocol = write_benchmark(tmp_path, rows, kinds=[NO_COMMA, sentences])
    found = blocking(planned(["rows=sft", *overrides(protocol, "ifeval")]))
    assert [line for line in found if "punkt_tab" in line and sentences in line]
    protocol = write_benchmark(tmp_path, rows, name="newer", library="0.5.0")
    found = blocking(planned(["rows=sft", *overrides(protocol, "ifeval")]))
    assert [line for line in found if "lm-eval 0.4.13 is installed, 0.5.0 is required" in line]
    stage = row_stages(compose(overrides(protocol, "ifeval")), "a").check
    assert stage is not None
    with pytest.raises(ValueError, match=r"0.5.0 is required"):
        check.make(Folder(tmp_path / "runs", stage).job)
    assert not blocking(planned(["rows=sft"])), "a table without checked benchmarks needs none of it"


@pytest.mark.slow
def test_a_tiny_model_goes_from_nothing_to_a_table_without_a_judge(tmp_path: Path) -> None:
    """The real stages on the rehearsal's stand-in prompts, which the pocket model's tokenizer knows."""
    repository = repository_of("ifeval", tmp_path / "hub")
    protocol = protocol_over("ifeval", {repository.name: repository}, tmp_path / "eval")
    shutil.copy(repository.folder / "ifeval_input_data.jsonl", protocol.parent)
    few = [f"model.phases.{phase}.{each}" for phase in PHASES for each in ("count=640", "train.max_steps=10")]
    rows = ["settings=base", "rows=sft", "seeds=1", *few, f"runs={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "recipes.reproduce", *rows, *overrides(protocol, "ifeval", "ifeval_sampled")]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "IF prompt" in done.stdout and "judge" not in done.stdout.split("report.html")[0]
    (path,) = (tmp_path / "runs" / "report").glob("*/table1.csv")
    found = cells(path.parent)
    assert found["sft", "ifeval_instruction"]["prompts"] == "20" and found["sft", "tokens"]["value"] != "-"
    assert {stage.name for stage in (tmp_path / "runs").iterdir() if stage.is_dir()} >= {
        "check",
        "generate",
        "benchmark",
    }
    assert not (tmp_path / "runs" / "judge").exists()
