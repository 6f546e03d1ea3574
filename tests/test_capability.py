"""Scores on lm-eval's tasks: what the stage keeps, against scores computed here and against lm-eval run by hand."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from focalpo.checking import capability
from focalpo.checking.capability import Measured, measure
from focalpo.checking.instructions import other_version
from focalpo.config.compose import compose, compose_table
from focalpo.planning.needs import Estimate
from focalpo.planning.stages import report_stage, table_rows
from focalpo.planning.table import compose_rows, with_rows
from focalpo.running.command import GOALS
from focalpo.stages import suites
from focalpo.stages.folder import Folder, Job, Stage, read_manifest
from focalpo.stages.records import PromptScore, read_records, write_records
from recipes import capability as recipe
from recipes.why import why
from tests.conftest import LAUNCHER, made
from tests.sealed_table import MAKERS, sealed_stages
from tests.tiny import chatml_tokenizer, tiny_model

QUESTIONS = suites.suites()["laptop"]["plain_questions"]
ITEMS = [json.loads(line) for line in (suites.OWN / "plain_questions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def short() -> Any:
    """A model that prefers the shortest continuation, and of two the one that comes first in the alphabet."""
    from lm_eval.api.model import LM

    class Short(LM):
        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [(dislike(each.args[1]), False) for each in requests]

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError

        generate_until = loglikelihood_rolling

    return Short()


def dislike(continuation: str) -> float:
    return -len(continuation) - ord(continuation.strip()[0]) / 1000


def by_hand(limit: int | None = None) -> list[float]:
    rows = ITEMS[:limit]
    picked = [max(range(4), key=lambda place, row=row: dislike(" " + row["choices"][place])) for row in rows]
    return [float(place == row["answer"]) for place, row in zip(picked, rows, strict=True)]


def test_document_scores_are_those_computed_by_hand_and_their_mean_is_lm_evals_own(short: Any) -> None:
    found = measure(short, QUESTIONS, None, chat_template=False)
    assert [score.points for score in found.scores] == by_hand()
    assert {score.most for score in found.scores} == {1.0} and 0 < mean(by_hand()) < 1
    assert len({score.id for score in found.scores}) == len(ITEMS) == 100
    assert found.mean == pytest.approx(100 * mean(by_hand()))
    assert found.error == pytest.approx(100 * stdev(by_hand()) / sqrt(100))


def test_a_limit_takes_the_first_documents_and_the_working_directory_does_not_matter(
    short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [each.points for each in measure(short, QUESTIONS, 7, chat_template=False).scores] == by_hand(7)


def test_our_questions_have_four_different_answers_and_the_right_one_at_any_place() -> None:
    assert all(len(set(item["choices"])) == 4 and 0 <= item["answer"] < 4 for item in ITEMS)
    assert len({item["query"] for item in ITEMS}) == len({item["id"] for item in ITEMS}) == 100
    assert [sum(item["answer"] == place for item in ITEMS) for place in range(4)] == [25] * 4


def test_a_metric_that_a_task_does_not_have_is_named(short: Any) -> None:
    with pytest.raises(ValueError, match=r"plain_questions has no f1,none; it has acc,none, acc_norm,none"):
        measure(short, replace(QUESTIONS, metric="f1"), 2, chat_template=False)


@pytest.mark.slow  # lm-eval reads the names of all its tasks
def test_every_task_of_the_leaderboard_is_one_of_lm_eval_with_that_data_set_and_metric(short: Any) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    index = capability.task_manager(True).task_index
    for task in suites.suites()["leaderboard"].values():
        name = "mmlu_virology" if task.task == "mmlu" else task.task
        values = load_yaml(index[name].yaml_path, resolve_func=False)
        assert values["dataset_path"] == task.dataset
        assert task.metric in {each["metric"] for each in values["metric_list"]}
        assert task.filter in {each["name"] for each in values.get("filter_list", [{"name": "none"}])}
        assert values.get("num_fewshot", task.shots) == task.shots
    with pytest.raises(ValueError, match="cannot run plane_questions"):
        measure(short, replace(QUESTIONS, task="plane_questions"), 2, chat_template=False)


def test_the_plan_counts_a_suite_by_its_documents_and_a_limit(tmp_path: Path) -> None:
    def operations(*overrides: str) -> float:
        config = compose([*LAPTOP, *overrides])
        return Estimate(config, tmp_path).of(GOALS["capability"](config)).operations

    assert operations("capability.limit=25") == pytest.approx(operations() / 4)  # of 100 documents
    assert operations("capability.limit=1000") == operations() < operations("capability=leaderboard")
    assert {name for tasks in suites.suites().values() for name in tasks} == set(
        yaml.safe_load((suites.ROOT / "conf" / "sizes.yaml").read_text())["capability"]
    )


def test_another_lm_eval_or_none_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert other_version(suites.lm_eval_version()) is None
    remedy = "install the laptop extra: make setup EXTRAS=dev,laptop"
    assert other_version("0.4.99") == (
        f"lm-eval 0.4.13 is installed, 0.4.99 is required, whose scores may differ; {remedy}"
    )

    def gone(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", gone)
    assert other_version("0.4.13") == f"lm-eval 0.4.13 is not installed; {remedy}"


LAPTOP = ("experiment=pocket/dpo", "capability=laptop")


def stage(*overrides: str) -> Stage:
    found = GOALS["capability"](compose([*LAPTOP, *overrides]))
    return replace(found, inputs={})


@pytest.mark.parametrize(
    "override",
    [
        "capability=leaderboard",
        "capability.limit=5",
        "capability.chat_template=true",
        "capability.batch_size=3",
        "generate.backend=vllm",
        "generate.dtype=bfloat16",
        "launch.threads=2",
    ],
)
def test_what_changes_a_score_changes_the_key(override: str) -> None:
    assert stage(override).key != stage().key


def test_vllm_batches_tracking_and_labels_do_not_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = "generate.backend=vllm"
    assert stage(vllm, "capability.batch_size=3", "track=offline").key == stage(vllm).key
    first, labelled = stage().key, replace(QUESTIONS, label="Questions")
    monkeypatch.setattr("focalpo.planning.capability.suites", lambda: {"laptop": {"plain_questions": labelled}})
    assert stage().key == first
    monkeypatch.setattr(
        "focalpo.planning.capability.suites", lambda: {"laptop": {"plain_questions": replace(QUESTIONS, shots=1)}}
    )
    assert stage().key != first


def test_an_unknown_suite_and_none_at_all_are_told() -> None:
    with pytest.raises(ValueError, match="capability.suite='lapdog' is not in eval/capability.yaml; it has leader"):
        compose([*LAPTOP, "capability.suite=lapdog"])
    with pytest.raises(
        ValueError, match="capability has nothing to do in this configuration; choose something by capability=NAME"
    ):
        GOALS["capability"](compose(["experiment=pocket/dpo"]))


def test_an_interrupted_stage_goes_on_with_the_next_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {name: stage().settings["tasks"]["plain_questions"] | {"shots": n} for n, name in enumerate("abc")}
    model = stage().settings["model"] | {"path": str(tmp_path)}
    settings = stage().settings | {"tasks": tasks, "model": model}
    folder = Folder(tmp_path, Stage("capability", "m", settings, launch=stage().launch))
    asked: list[int] = []

    def measured(model: object, task: suites.Task, limit: int | None, chat_template: bool) -> Measured:
        asked.append(task.shots)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return Measured([PromptScore("x/0", float(task.shots), 1.0)], 100.0 * task.shots, None, [])

    monkeypatch.setattr(recipe, "_loaded", lambda job: None)
    monkeypatch.setattr(recipe, "measure", measured)
    with pytest.raises(KeyboardInterrupt), folder.being_made() as job:
        recipe.make(job)
    (folder.path / "b.parquet").write_bytes(b"cut off")  # its result is not there: not complete
    with folder.being_made() as job:
        folder.seal(1.0, recipe.make(job))
    assert asked == [0, 1, 1, 2], "a is not run again, b is"
    facts = read_manifest(folder.path)["facts"]["tasks"]
    for number, name in enumerate("abc"):
        assert facts[name]["mean"] == 100 * number
        assert read_records(folder.path / f"{name}.parquet", PromptScore) == [PromptScore("x/0", float(number), 1.0)]


def test_a_task_is_a_column_with_interval_and_paired_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPO is right on documents 0 to 59 and FocalPO on 0 to 69, so it is ahead on ten of a hundred: 10 points."""

    def capability_of(job: Job) -> dict:
        right = 70 if "focalpo" in job.name else 60
        scores = [PromptScore(f"plain_questions/{n}", float(n < right), 1.0) for n in range(100)]
        write_records(job.path / "plain_questions.parquet", scores)
        return {"tasks": {}, "warnings": []}

    monkeypatch.setitem(MAKERS, "capability", capability_of)
    table = with_rows(compose_table("pocket"), {"settings": "base", "rows": "dpo,focalpo", "seeds": "1"})
    rows = table_rows(table, compose_rows(table, ["capability=laptop"]))
    report = made(sealed_stages(tmp_path / "runs", report_stage(table, rows, ["capability=laptop"])))
    with (report / "table1.csv").open() as lines:
        cells = {line["row"]: line for line in csv.DictReader(lines) if line["column"] == "plain_questions"}
    assert {row: (float(cell["value"]), cell["prompts"]) for row, cell in cells.items()} == {
        "dpo": (60.0, "100"),
        "focalpo": (70.0, "100"),
    }
    assert float(cells["focalpo"]["difference"]) == pytest.approx(10.0)
    assert float(cells["focalpo"]["library_se"]) == pytest.approx(100 * sqrt(0.7 * 0.3 / 99))
    text = (report / "table1.md").read_text()
    assert "Plain questions" in text and "Tasks of lm-eval 0.4.13" in text and "0-shot, acc" in text
    assert "Plain questions" in (report / "report.html").read_text()
    explained = why("focalpo/base/plain_questions", [report])
    assert "FocalPO, Pocket base (off-policy pairs), Plain questions: 70.0 [" in explained
    assert "capability/" in explained and "EXTRAS=dev,laptop" in explained


@pytest.mark.slow
def test_the_stage_equals_lm_eval_run_by_hand(tmp_path: Path) -> None:
    model = tmp_path / "sft" / "m-0" / "model"
    tokenizer = chatml_tokenizer()
    tiny_model(vocab_size=len(tokenizer), max_position_embeddings=256).save_pretrained(model)
    tokenizer.save_pretrained(model)
    settings = stage("capability.batch_size=5").settings
    settings["model"] |= {"path": str(model)}
    folder = Folder(tmp_path, Stage("capability", "m", settings, launch=stage().launch))
    with folder.being_made() as job:
        folder.seal(1.0, recipe.make(job))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "plain_questions", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--batch_size", "5", "--log_samples"]
    command += ["--include_path", str(suites.OWN), "--output_path", str(tmp_path / "by_hand")]
    # Another test reads the same data at this time, and accelerate has set a launcher's variables in this process.
    own = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    apart = own | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=suites.ROOT, env=apart, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [samples] = (tmp_path / "by_hand").rglob("samples_*.jsonl")
    theirs = {each["doc_id"]: each["acc"] for each in map(json.loads, samples.read_text().splitlines())}
    ours = read_records(folder.path / "plain_questions.parquet", PromptScore)
    assert {f"plain_questions/{number}": points for number, points in theirs.items()} == {s.id: s.points for s in ours}
    [results] = (tmp_path / "by_hand").rglob("results_*.json")
    whole = json.loads(results.read_text())["results"]["plain_questions"]
    facts = read_manifest(folder.path)["facts"]["tasks"]["plain_questions"]
    assert (facts["mean"], facts["stderr"]) == (100 * whole["acc,none"], 100 * whole["acc_stderr,none"])
