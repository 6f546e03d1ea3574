"""The whole chain on a tiny setting, as a user runs it: from nothing to a table, again, after kills, with mistakes."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from focalpo.reporting.table_run import newest_reports
from focalpo.stages.folder import verify
from focalpo.stages.records import read_json_lines
from recipes.notebooks import render
from recipes.why import why
from tests.test_track import ended, history

ROOT = Path(__file__).parent.parent
Made = tuple[Path, str]  # the runs folder of the table, and what was printed
TINY = [
    *("rows=sft,dpo,kto,focalpo", "seeds=2"),
    "launch.workers=1",  # each takes four seconds to import what it runs
    "model.phases.pretraining.count=640",
    "model.phases.pretraining.train.max_steps=20",
    "model.phases.sft.count=640",
    "data.prompts=200",
    "train.max_steps=3",
    "dynamics.train_pairs=50",
]


def started(*words: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, start_new_session=True, **pipes)


def reproduce(runs: Path, *more: str) -> subprocess.Popen:
    given = {word.partition("=")[0]: word for word in (*TINY, *more)}  # a word may be given once
    return started("-m", "recipes.reproduce", f"runs={runs}", *given.values())


def output_of(process: subprocess.Popen, fails: bool = False) -> str:
    output, _ = process.communicate(timeout=800)
    assert (process.returncode != 0) == fails, output
    assert "Traceback" not in output, output
    return output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    runs = tmp_path_factory.mktemp("runs")
    return runs, output_of(reproduce(runs, "launch.workers=2"))


def table_of(runs: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    (path,) = runs.glob("report/*/table1.csv")
    with path.open() as file:
        return {(row["setting"], row["row"], row["column"]): row for row in csv.DictReader(file)}


PART = ["settings=base", "rows=dpo,focalpo"]  # of the table, what tests make once more from nothing


def cells(runs: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """The cells of `PART`, without what is corrected over all differences of a table, of any settings and rows."""
    corrected = ("p_holm", "detectable")
    return {
        place: {name: value for name, value in cell.items() if name not in corrected}
        for place, cell in table_of(runs).items()
        if place[:2] in (("base", "dpo"), ("base", "focalpo"))
    }


@pytest.mark.slow
def test_from_nothing_to_a_table_with_an_interval_in_every_cell(made: Made) -> None:
    runs, output = made
    table = table_of(runs)
    for setting in ("base", "instruct"):
        for row in ("sft", "dpo", "kto", "focalpo"):
            for column in ("ae2_lc", "ae2_wr", "arena_hard"):
                cell = table[setting, row, column]
                assert cell["seeds"] == "2" and cell["prompts"] == ("200" if column == "arena_hard" else "400")
                low, value, high = (float(cell[name]) for name in ("low", "value", "high"))
                assert 0 <= low <= value <= high <= 100
            for extra in ("greedy_success", "tokens", "unfinished"):
                assert float(table[setting, row, extra]["value"]) >= 0
        assert table[setting, "dpo", "ae2_wr"]["difference"] == "-"
        assert float(table[setting, "focalpo", "ae2_wr"]["p_holm"]) <= 1
    (folder,) = (runs / "report").iterdir()
    for name in ("report.html", "report.md", "report.tex", "table1.csv", "table1.tex", "figures"):
        assert str(folder / name) in output and (folder / name).stat().st_size > 0
    value = f"{float(table['base', 'dpo', 'ae2_wr']['value']):.1f}"
    assert f"{value} ±" in output and f"{value} [" in (folder / "table1.md").read_text()


@pytest.mark.slow
def test_every_stage_is_sealed_and_is_what_its_manifest_says(made: Made) -> None:
    runs, _ = made
    manifests = list(runs.glob("*/*/manifest.json"))
    assert {path.parent.parent.name for path in manifests} == {
        "sft", "pairs", "reference", "train", "benchmark", "generate", "judge", "report",
    }  # fmt: skip
    for path in manifests:
        verify(path.parent)
        for needed in json.loads(path.read_text())["inputs"].values():
            assert (runs / needed / "manifest.json").is_file()
    references = list(runs.glob("reference/*"))
    assert len(references) == 4, "two settings: chosen and rejected once for all rows, mismatched once for KTO"


@pytest.mark.slow
def test_a_second_run_does_nothing_and_says_so(made: Made) -> None:
    runs, first = made
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    again = output_of(reproduce(runs))
    assert "nothing to do" in again
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == before
    assert again.partition("nothing to do")[0].strip() in first


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_table(made: Made, tmp_path: Path) -> None:
    for stages in (4, 12):
        process = reproduce(tmp_path, *PART, "launch.workers=2")
        deadline = time.monotonic() + 600
        while len(list(tmp_path.glob("*/*/manifest.json"))) < stages and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    output_of(reproduce(tmp_path, *PART))
    assert cells(tmp_path) == cells(made[0])


@pytest.mark.slow
def test_an_output_that_was_edited_is_named_and_made_again(made: Made) -> None:
    runs, _ = made
    (report,) = (runs / "report").iterdir()
    (report / "manifest.json").unlink()
    (judged,) = runs.glob("judge/base-dpo-s1-*")
    verdicts = judged / "alpaca_eval.parquet"
    kept = verdicts.read_bytes()
    verdicts.write_bytes(kept[:-1] + b"x")
    before = table_of(runs)
    output = output_of(reproduce(runs))
    assert f"{verdicts} does not match its manifest (sha256 differs); its stage must run again" in output
    assert verdicts.read_bytes() == kept
    assert table_of(runs) == before


@pytest.mark.slow
def test_a_row_that_fails_is_a_dash_and_the_others_still_make_a_table(made: Made, tmp_path: Path) -> None:
    for kind in ("sft", "pairs", "reference", "benchmark", "generate", "judge"):
        (tmp_path / kind).symlink_to(made[0] / kind)
    (tmp_path / "train").mkdir()
    for folder in (made[0] / "train").iterdir():
        if not folder.name.startswith("instruct-kto"):
            (tmp_path / "train" / folder.name).symlink_to(folder)
        else:  # unfinished work of another run, which must be refused
            checkpoint = tmp_path / "train" / folder.name / ".checkpoints" / "step-000001"
            checkpoint.mkdir(parents=True)
            (checkpoint / "complete").write_text('{"run": "another", "step": 1, "files": {}}')
    output = output_of(reproduce(tmp_path), fails=True)
    assert output.count("was saved by a run with other settings") == 2, "two seeds"
    table, whole = table_of(tmp_path), table_of(made[0])
    assert {cell["value"] for place, cell in table.items() if place[:2] == ("instruct", "kto")} == {"-"}
    assert all(table[place]["value"] == whole[place]["value"] for place in whole if place[:2] != ("instruct", "kto"))


@pytest.mark.slow
def test_a_judge_that_fails_now_and_then_gives_the_same_table(made: Made, tmp_path: Path) -> None:
    faults = "judge.endpoint.base_url='pocket --faults 429=0.02,500=0.02,garbage=0.02'"
    for kind in ("sft", "pairs", "reference", "train", "benchmark", "generate"):
        (tmp_path / kind).symlink_to(made[0] / kind)
    more = [*PART, faults, "judge.endpoint.concurrency=8", "judge.endpoint.max_attempts=9"]
    output_of(reproduce(tmp_path, *more))
    assert cells(tmp_path) == cells(made[0])
    calls = [json.loads(path.read_text())["facts"]["calls"] for path in tmp_path.glob("judge/*/manifest.json")]
    assert all(call["retried"] > 0 and call["failed"] == 0 for call in calls)


@pytest.mark.slow
def test_a_judge_that_is_down_leaves_the_stage_unsealed_and_says_what_to_do(made: Made, tmp_path: Path) -> None:
    for kind in ("sft", "benchmark", "generate"):
        (tmp_path / kind).symlink_to(made[0] / kind)
    command = ["rows=sft", "seeds=1", "judge.endpoint.base_url=http://127.0.0.1:9/v1", "judge.endpoint.max_attempts=2"]
    output = output_of(reproduce(tmp_path, *command), fails=True)
    assert re.search(r"judge/sft-s1-\w+: .*http://127.0.0.1:9/v1.* and run again", output)
    assert not list(tmp_path.glob("judge/*/manifest.json"))


@pytest.mark.slow
def test_the_commands_that_why_prints_make_the_same_cell_again(made: Made, tmp_path: Path) -> None:
    printed = why("focalpo/base/ae2_lc", newest_reports(made[0])).splitlines()[-1]
    python, *words = shlex.split(printed)
    assert python == ".venv/bin/python"
    output_of(started(*words, f"runs={tmp_path}"))
    assert cells(tmp_path)["base", "focalpo", "ae2_lc"] == cells(made[0])["base", "focalpo", "ae2_lc"]


@pytest.mark.slow
def test_notebooks_run_on_the_table(made: Made) -> None:
    pages = render(newest_reports(made[0])[0])
    assert len(pages) == 4
    shown = f"{float(table_of(made[0])['base', 'focalpo', 'ae2_lc']['value']):.1f} ±"
    assert shown in (pages[1]).read_text()


@pytest.mark.slow
def test_every_stage_of_a_tracked_table_is_an_offline_run_with_all_its_metrics(made: Made, tmp_path: Path) -> None:
    for kind in ("sft", "pairs", "reference", "benchmark"):
        (tmp_path / kind).symlink_to(made[0] / kind)
    output = output_of(reproduce(tmp_path, "rows=dpo", "seeds=1", "settings=base", "track=offline"))
    assert "W&B failed" not in output
    runs = {path.name.split("-", 3)[3]: path for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert sorted(name.partition("-")[0] for name in runs) == ["generate", "judge", "report", "train"]
    (trained,) = (tmp_path / "train").iterdir()
    name = next(name for name in runs if name.startswith("train"))
    (tmp_path / "one" / "wandb").mkdir(parents=True)
    (tmp_path / "one" / "wandb" / runs[name].name).symlink_to(runs[name])
    rows = history(ended(tmp_path / "one"))
    assert [row for row in rows if "loss" in row] == read_json_lines(trained / "metrics.jsonl")
    evaluated = [{"step": row["step"], "loss": row["eval_loss"]} for row in rows if "eval_loss" in row]
    kept = read_json_lines(trained / "evaluation.jsonl")
    assert evaluated == [{"step": row["step"], "loss": row["loss"]} for row in kept] and evaluated[0]["step"] == 0


def command_fails(*arguments: str) -> str:
    return output_of(started("-m", *arguments), fails=True)


def test_paper_scale_says_what_it_needs_and_starts_nothing(tmp_path: Path) -> None:
    output = command_fails("recipes.reproduce", "table=paper", f"runs={tmp_path}")
    assert "nothing was started" in output and "8 GPUs" in output and "OPENAI_API_KEY" in output
    assert len(output.splitlines()) <= 24
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["rows=dpo,dqo"], "unknown row 'dqo'"),
        (["seeds=none"], "seeds=none must be a number"),
        (["train.lrr=1"], "train.lrr"),
        (["train.global_batch=10", "launch.ranks=4"], "train.global_batch=10 is not divisible by launch.ranks=4"),
        (["data.label_noise=0.7", "train.learning_rate=-1"], "data.label_noise=0.7 must be in [0, 0.5]"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tmp_path: Path, arguments: list[str], said: str) -> None:
    output = command_fails("recipes.reproduce", f"runs={tmp_path}", *arguments)
    assert said in output and output.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "write, said",
    [
        (None, "is not a file; check the path"),
        (b"\x1f\x8b\x08\x00broken", "pairs.jsonl.gz"),
        (b'{"question": "a", "answer": "b"}\n', "question"),
    ],
)
def test_bad_data_files_are_told_in_one_line(tmp_path: Path, write: bytes | None, said: str) -> None:
    path = tmp_path / ("pairs.jsonl.gz" if write and write.startswith(b"\x1f") else "pairs.jsonl")
    if write is not None:
        path.write_bytes(write)
    output = command_fails("recipes.dynamics", f"data.path={path}", f"runs={tmp_path / 'runs'}")
    assert said in output and "failed" in output
    assert not list(tmp_path.glob("runs/*/*/manifest.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "whom, number, said",
    [
        ("everyone", signal.SIGINT, "stopped; sealed stages are kept, run the same command again to resume"),
        ("workers", signal.SIGKILL, "its worker was killed (out of memory?); lower launch.workers and run again"),
    ],
)
def test_an_interrupted_run_ends_in_one_line(tmp_path: Path, whom: str, number: int, said: str) -> None:
    long = ["model.phases.pretraining.count=20000", "model.phases.pretraining.train.max_steps=2500"]
    process = reproduce(tmp_path, *long)
    while not list(tmp_path.glob("sft/*/progress.json")):
        assert process.poll() is None
        time.sleep(0.02)
    if whom == "everyone":  # as a terminal does
        os.killpg(process.pid, number)
    else:
        found = subprocess.run(["pgrep", "-f", "multiprocessing.spawn"], capture_output=True, text=True).stdout.split()
        for worker in (int(text) for text in found if os.getpgid(int(text)) == process.pid):
            os.kill(worker, number)
    assert said in output_of(process, fails=True)
    assert not list(tmp_path.glob("sft/*/manifest.json"))
    assert bool(list(tmp_path.glob("sft/*/.checkpoints/step-*/complete"))) == (whom == "everyone")
