"""The command of duels on stand-ins for the answers: it judges, seals, resumes, and asks nothing twice."""

import csv
import shutil
from pathlib import Path

import pytest

from focalpo.planning.duels import planned_duels
from focalpo.stages.folder import MANIFEST, Folder, read_manifest
from focalpo.stages.records import DuelGame, read_records
from recipes.duels import _simulated, duels
from tests.judged_table import seal_answers

TABLE = ["settings=base", "rows=dpo,focalpo", "seeds=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    arguments = [*TABLE, f"runs={folder}"]
    seal_answers(folder, [planned_duels(arguments).report])
    duels(arguments)
    return folder


def sealed(runs: Path, *more: str) -> tuple[Path, Path]:
    """The folders of the only duel and of the tables."""
    plan = planned_duels([*TABLE, f"runs={runs}", *more])
    (duel,) = plan.report.inputs.values()
    return Folder(runs, duel).path, Folder(runs, plan.report).path


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as lines:
        return {row["benchmark"]: row for row in csv.DictReader(lines)}


@pytest.mark.slow
def test_the_command_judges_prints_and_seals(runs: Path, capsys: pytest.CaptureFixture) -> None:
    duel, tables = sealed(runs)
    facts = read_manifest(duel)["facts"]
    games = {name: read_records(duel / f"{name}.parquet", DuelGame) for name in ("alpaca_eval", "arena_hard")}
    assert [len(found) for found in games.values()] == [800, 400]
    sentinel, second = (
        10 + 20,
        facts["calls"]["calls"] - sum(not game.same for found in games.values() for game in found),
    )
    assert facts["calls"]["retried"] == 0 and second == sentinel
    found = rows_of(tables / "duels.csv")
    share = 100 * sum(game.result for game in games["alpaca_eval"]) / 800
    assert float(found["alpaca_eval"]["wr"]) == pytest.approx(share)
    assert (found["arena_hard"]["judge"], found["arena_hard"]["protocol"]) == (
        "pocket-judge at pocket",
        "pocket_arena_hard",
    )
    assert float(found["alpaca_eval"]["agree"]) == 100, "this judge of log-probs has no place that it likes"
    duels([*TABLE, f"runs={runs}"])
    printed = capsys.readouterr().out
    assert (tables / "duels.txt").read_text() in printed and all(len(line) <= 100 for line in as_lines(tables))
    assert "Bradley-Terry" in (tables / "duels.md").read_text() and "against the other row's answers" in printed


def as_lines(tables: Path) -> list[str]:
    return (tables / "duels.txt").read_text().splitlines()


@pytest.mark.slow
def test_turned_around_the_same_verdicts_are_read_from_the_records(runs: Path) -> None:
    duels([*TABLE, "pairs=dpo:focalpo", f"runs={runs}"])
    (here, there), (_, tables) = sealed(runs), sealed(runs, "pairs=dpo:focalpo")
    turned, _ = sealed(runs, "pairs=dpo:focalpo")
    facts = read_manifest(turned)["facts"]
    assert facts["calls"]["calls"] == 30, "the sentinel alone"
    assert facts["records_of"] == [f"duel/{here.name}"]
    one, other = (rows_of(folder / "duels.csv") for folder in (there, tables))
    for name in one:
        assert float(one[name]["wr"]) == pytest.approx(100 - float(other[name]["wr"]))
        assert float(one[name]["lc_se"]) == pytest.approx(float(other[name]["lc_se"]))


@pytest.mark.slow
def test_a_duel_that_was_killed_goes_on_with_its_records(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy, symlinks=True)
    duel, tables = sealed(copy)
    for other in (copy / "duel").glob("*"):
        if other != duel:
            shutil.rmtree(other)
    shutil.rmtree(tables)
    lines = (duel / "records.jsonl").read_bytes().splitlines(keepends=True)
    (duel / "records.jsonl").write_bytes(b"".join(lines[:200]) + lines[200][:20])
    (duel / MANIFEST).unlink()
    duels([*TABLE, f"runs={copy}"])
    calls = read_manifest(duel)["facts"]["calls"]
    assert calls["calls"] == len(lines) - 200
    whole, _ = sealed(runs)
    assert all(
        (duel / f"{n}.parquet").read_bytes() == (whole / f"{n}.parquet").read_bytes()
        for n in ("alpaca_eval", "arena_hard")
    )


@pytest.mark.slow
def test_rows_with_the_same_answers_meet_without_a_judge(tmp_path: Path) -> None:
    arguments = [*TABLE, f"runs={tmp_path}", "judge.endpoint.base_url=null", "judge.name=nobody", "judge.sentinel=null"]
    plan = planned_duels(arguments)
    seal_answers(tmp_path, [plan.report])
    (stage,) = plan.report.inputs.values()
    one, other = (Folder(tmp_path, stage.inputs[name]) for name in ("completions", "opponent"))
    other_path = other.path
    shutil.rmtree(other_path)
    shutil.copytree(one.path, other_path)
    (other_path / MANIFEST).unlink()
    (other_path / "stage.json").unlink()
    with other.being_made():
        other.seal(0.0)
    duels(arguments)
    (tables,) = (tmp_path / "duels").iterdir()
    found = rows_of(tables / "duels.csv")["alpaca_eval"]
    assert (found["wr"], found["same"], found["agree"]) == ("50.0", "100.0", "-")


@pytest.mark.slow
def test_a_duel_detects_a_third_of_the_difference_where_rows_share_answers_and_verdicts_are_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The documented ratios, 3.3 and 1.6, from fewer experiments."""
    monkeypatch.setattr("recipes.duels.EXPERIMENTS", 300)
    assert float(_simulated("arena_hard", 0.7)[4]) == pytest.approx(3.2, abs=0.4)
    assert float(_simulated("alpaca_eval", 0.7)[4]) == pytest.approx(1.6, abs=0.25)
