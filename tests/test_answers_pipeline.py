"""From files of answers to a table, and from its judge stage to files that give the same scores and answers again."""

import csv
import json
import random
import sys
from pathlib import Path

import pytest

from focalpo.planning.table import Planned, planned
from focalpo.pocket.benchmarks import benchmark_tasks, write_benchmark
from focalpo.pocket.writers import WRITERS, write
from focalpo.running.worker import make
from focalpo.scoring.annotations import read_annotations, score
from focalpo.scoring.length_control import read_gamed
from focalpo.stages.folder import Folder, read_manifest
from recipes.annotations import main as annotations_command
from recipes.annotations import write_judged
from recipes.reproduce import reproduce
from recipes.why import why
from tests.test_verdict_files import naive_score

MODEL = "theirs"
pytestmark = pytest.mark.slow


def answer_files(folder: Path) -> dict[str, Path]:
    """A writer's answers to both pocket benchmarks, in other orders, of which one is empty."""
    rng = random.Random(0)
    texts = {task.prompt: write(task, WRITERS["mid"], rng) for each in benchmark_tasks().values() for task in each}
    write_benchmark("arena_hard", folder)
    questions = [json.loads(line) for line in (folder / "question.jsonl").read_text().splitlines()]
    alpaca = [{"instruction": task.prompt, "output": texts[task.prompt]} for task in benchmark_tasks()["alpaca_eval"]]
    alpaca[5]["output"] = ""
    arena = [
        {"question_id": q["uid"], "model_id": MODEL, "choices": [{"turns": [{"content": texts[q["prompt"]]}]}]}
        for q in questions
    ]
    for rows in (alpaca, arena):
        rng.shuffle(rows)
    (folder / "outputs.json").write_text(json.dumps([row | {"generator": MODEL} for row in alpaca]))
    (folder / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in arena))
    return {"alpaca_eval": folder / "outputs.json", "arena_hard": folder / "theirs.jsonl"}


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def arguments_of(runs: Path, files: dict[str, Path]) -> list[str]:
    answers = [f"+generate.answers.{name}={file}" for name, file in files.items()]
    return ["table=answers", f"runs={runs}", *answers]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planned, list[Path], Path]:
    """The table, run; the files that its judge stage was written to, and their folder."""
    folder = tmp_path_factory.mktemp("files")
    arguments = arguments_of(folder / "runs", answer_files(folder))
    reproduce(arguments)
    plan = planned(arguments)
    (row,) = plan.rows.values()
    return plan, write_judged(Folder(plan.runs, row.judge).path, folder / "out"), folder / "out"


def test_the_table_has_the_scores_of_the_files_that_we_write(made: tuple[Planned, list[Path], Path]) -> None:
    plan, files, out = made
    assert [str(path.relative_to(out)) for path in files] == [
        "alpaca_eval/theirs/model_outputs.json",
        "alpaca_eval/theirs/weighted_alpaca_eval_pocket/annotations.json",
        "alpaca_eval/theirs/weighted_alpaca_eval_pocket/leaderboard.csv",
        "arena_hard/model_answer/theirs.jsonl",
        "arena_hard/model_judgment/pocket-judge/theirs.jsonl",
    ]
    cells = {line["column"]: line for line in read_csv(Folder(plan.runs, plan.report).path / "table1.csv")}
    gamed = read_gamed(next(plan.runs.glob("benchmark/alpaca_eval-*/df_gamed.csv")))
    found = score(read_annotations(files[1]), gamed)
    assert float(cells["ae2_wr"]["value"]) == pytest.approx(found.win_rate, abs=1e-10)
    assert float(cells["ae2_lc"]["value"]) == pytest.approx(found.length_controlled, abs=0.01)  # liblinear stops early
    judgments = [json.loads(line) for line in files[4].read_text().splitlines()]
    assert float(cells["arena_hard"]["value"]) == pytest.approx(naive_score(judgments), abs=1e-10)
    (board,) = read_csv(files[2])
    assert (board[""], board["n_total"], float(board["win_rate"])) == (MODEL, "400", found.win_rate)
    assert float(board["length_controlled_winrate"]) == found.length_controlled


def test_a_row_of_answers_from_files_is_explained_like_any_other(made: tuple[Planned, list[Path], Path]) -> None:
    plan, *_ = made
    (row,) = plan.rows.values()
    text = why("given/given/arena_hard", [Folder(plan.runs, plan.report).path])
    assert row.generate.title in text and row.judge.title in text and "+generate.answers.alpaca_eval=" in text
    facts = read_manifest(Folder(plan.runs, row.generate).path)["facts"]
    assert facts["warnings"] == ["alpaca_eval: some answers are empty; they are scored as they stand"]
    assert facts["models"] == dict.fromkeys(("alpaca_eval", "arena_hard"), MODEL)
    assert "tokens" not in facts["alpaca_eval"], "the file does not count them"
    figures = [path.name for path in Folder(plan.runs, plan.report).path.glob("figures/*.svg")]
    assert "table1.svg" in figures and "length.svg" not in figures, "lengths are drawn in tokens"


def test_the_written_answers_are_read_back_as_the_same_answers(made: tuple[Planned, list[Path], Path]) -> None:
    plan, files, _ = made
    (row,) = plan.rows.values()
    written = {"alpaca_eval": files[0], "arena_hard": files[3]}
    (again,) = planned(arguments_of(plan.runs, written)).rows.values()
    assert again.generate.key != row.generate.key, "another order of rows"
    make(plan.runs, again.generate)
    for name in written:
        one, other = (Folder(plan.runs, each.generate).path / f"{name}.parquet" for each in (row, again))
        assert one.read_bytes() == other.read_bytes()


def test_the_command_names_the_model_and_what_it_cannot_write(
    made: tuple[Planned, list[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    plan, files, _ = made
    (row,) = plan.rows.values()
    stage = Folder(plan.runs, row.judge).path
    monkeypatch.setattr(sys, "argv", ["annotations", str(stage), "--out", str(tmp_path), "--name", "org/ours"])
    annotations_command()
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.is_file() for path in printed] == [True] * 5
    assert {row["generator"] for row in json.loads(printed[0].read_text())} == {"org/ours"}
    assert printed[3] == tmp_path / "arena_hard/model_answer/org_ours.jsonl"
    with pytest.raises(ValueError, match="is a stage of kind answers; name one of runs/judge/"):
        write_judged(Folder(plan.runs, row.generate).path, tmp_path)
    with pytest.raises(ValueError, match="is no stage folder"):
        write_judged(tmp_path, tmp_path)
    answers = Folder(plan.runs, row.generate).path / "alpaca_eval.parquet"
    whole = answers.read_bytes()
    try:
        answers.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match="alpaca_eval.parquet does not match its manifest"):
            write_judged(stage, tmp_path)
    finally:
        answers.write_bytes(whole)
