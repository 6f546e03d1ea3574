"""Numbers beside the table, computed by hand: judge statistics, curves, the checklist, marks of the summary."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.judgements import judgements
from focalpo.judging.protocol import EVAL
from focalpo.reporting import cells
from focalpo.reporting.answers import NOTICE, played, scored_answers, write_answers
from focalpo.reporting.cells import Cell, Results, RowResult
from focalpo.reporting.checklist import checklist
from focalpo.reporting.curves import training_curves
from focalpo.reporting.document import as_summary
from focalpo.reporting.judges import judge_statistics
from focalpo.reporting.provenance import chain, commands, dirty
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.verdicts import read_rule
from focalpo.scoring.differences import Difference
from focalpo.stages.origin import short
from focalpo.stages.records import AlpacaVerdict, ArenaGame, write_records
from tests.sealed_table import RECORDED


def test_a_curve_is_the_mean_over_seeds_and_over_windows_of_steps(tmp_path: Path) -> None:
    for seed, start in (("a", 0.0), ("b", 10.0)):
        (tmp_path / seed).mkdir()
        lines = [json.dumps({"step": step, "loss": start + step}) for step in (1, 2, 3, 4)]
        (tmp_path / seed / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    # windows (1, 2) and (3, 4); seeds differ by 10, so their mean is 5 above the first
    assert training_curves([tmp_path / "a", tmp_path / "b"], points=2) == {"step": [1.5, 3.5], "loss": [6.5, 8.5]}
    assert training_curves([tmp_path]) == {}, "a folder without metrics has no curve"


def test_judge_statistics_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "judge" / "dpo-s1-0"
    folder.mkdir(parents=True)
    manifest = {"stage": "judge/dpo-s1-0", "settings": {}, "inputs": {}, "outputs": {}}
    manifest["facts"] = {"calls": {"calls": 9, "retried": 2, "failed": 1}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    verdicts = [AlpacaVerdict(str(n), n, p, 10, 20 + n) for n, p in enumerate((1.0, 1.5, 1.46, 2.0))]
    write_records(folder / "alpaca_eval.parquet", verdicts)
    games = [(1.0, 1.0), (0.0, 1.0), (0.5, 0.5), (0.5, 1.0)]  # (game 1: model second, game 2: model first)
    flat = [
        ArenaGame(str(n), g + 1, "A>B", pair[g], 3 if n == 0 else 1) for n, pair in enumerate(games) for g in (0, 1)
    ]
    write_records(folder / "arena_hard.parquet", flat)
    found = judge_statistics(TableRun(tmp_path, {}, (), {"base/dpo/1/judge": folder}), "base", "dpo")
    assert found is not None
    assert (found.calls, found.retried, found.failed) == (9, 2, 1)
    assert (found.draws, found.agree, found.strong) == (50.0, 50.0, 25.0)
    assert found.first_place == 100 * (0 + 1 + 0 + 0.5) / 4
    assert (found.model_length, found.reference_length) == (21.5, 10.0)
    assert judge_statistics(TableRun(tmp_path, {}, (), {}), "base", "dpo") is None


def test_an_answer_has_its_share_of_the_win_and_the_verdicts_in_words(sealed_report: Path) -> None:
    run = TableRun.read(sealed_report)
    judge, generate = (run.seeds("base", "dpo", kind)["1"] for kind in ("judge", "generate"))
    answers = scored_answers({"judge": judge}, generate, judgements(judge))
    assert all(0 <= answer["score"] <= 1 for found in answers.values() for answer in found)
    assert len(answers["alpaca_eval"]) == 400 and len(answers["arena_hard"]) == 200
    first = answers["arena_hard"][0]
    assert set(first) == {"text", "tokens", "finished", "score", "result", "verdicts"}
    assert [each["shown"].partition(". ")[0] for each in first["verdicts"]] == [
        "Game 1: A is the reference, shown first, B is this answer",
        "Game 2: A is this answer, shown first, B is the reference",
    ]
    assert [each["wrote"] for each in first["verdicts"]] == [
        f"Game {game} was close. My final verdict is tight: [[A>B]]" for game in (1, 2)
    ]
    assert [each["wrote"] for each in answers["arena_hard"][RECORDED]["verdicts"]] == ["", ""], "not recorded"
    assert answers["alpaca_eval"][0]["verdicts"] == [
        {"shown": "The judge saw the reference first, as m, and this answer second, as M.", "wrote": "m"}
    ]
    assert answers["alpaca_eval"][RECORDED]["verdicts"] == []


def test_what_may_not_be_shared_is_written_beside_the_answers(sealed_report: Path, tmp_path: Path) -> None:
    run = TableRun.read(sealed_report)
    for licence, files in (("", 4), ("Do not share.", 5)):
        write_answers(run, tmp_path / f"answers{files}", lambda judge: {}, licence)
        assert len(list((tmp_path / f"answers{files}").iterdir())) == files, "questions, three rows, and the notice"
    assert (tmp_path / "answers5" / NOTICE).read_text() == "Do not share.\n"
    assert not (sealed_report / "answers" / NOTICE).exists(), "the pocket world's texts are ours"


@pytest.mark.parametrize(
    ("label", "game", "words"),
    [
        ("A>>B", 1, "the reference is much better (A>>B)"),
        ("A>>B", 2, "this answer is much better (A>>B)"),
        ("B>A", 1, "this answer is slightly better (B>A)"),
        ("A<B", 2, "the reference is slightly better (A<B)"),
        ("B<<A", 2, "this answer is much better (B<<A)"),
        ("B=A", 1, "a tie (B=A)"),
    ],
)
def test_a_games_verdict_says_who_is_better(label: str, game: int, words: str) -> None:
    assert played(ArenaGame("q", game, label, 0.0, 1), None)["shown"].endswith(f". Verdict: {words}.")


def test_a_game_without_a_verdict_says_so() -> None:
    lost = played(ArenaGame("q", 2, "", float("nan"), 0), None)
    assert lost == {
        "shown": "Game 2: A is this answer, shown first, B is the reference. Verdict: none.",
        "wrote": "",
    }


def test_the_summary_marks_significant_differences_and_rows_that_did_not_run() -> None:
    cell = Cell(30.0, 28.0, 32.0, 3, 400, 0.5, difference=Difference(4.0, 2.0, 6.0, 0.01, 1.0, 399.0), p_holm=0.03)
    rows = [
        RowResult("a", "A", {"ae2_lc": cell, "ae2_wr": replace(cell, p_holm=0.06)}, {}, {}),
        RowResult("b", "B", {}, {}, {}),
    ]
    lines = as_summary(Results("T", {"base": "Base (x)"}, {"base": rows}, "dpo", "DPO", ())).splitlines()
    assert lines[0].startswith("**A is significantly ahead of DPO in 1 and behind in 0 of 2 scores")
    assert lines[2] == "| Base | AlpacaEval LC | AlpacaEval WR |", "columns of which no row has a number are not"
    assert lines[4:6] == ["| A | 30.0 ±2.0\\* | 30.0 ±2.0 |", "| B | - | - |"]
    two = Results("T", {"base": "Base (x)", "other": "Other"}, {"base": rows, "other": rows[:1]}, "dpo", "DPO", ())
    header = "|  | Base, AlpacaEval LC | Base, AlpacaEval WR | Other, AlpacaEval LC | Other, AlpacaEval WR |"
    assert as_summary(two).splitlines()[2] == header


@pytest.mark.parametrize("commit, first", [("abc", "git checkout abc"), ("abc+changes", "make setup")])
def test_commands_check_out_only_a_commit_without_changes(sealed_report: Path, commit: str, first: str) -> None:
    run = TableRun.read(sealed_report)
    asked = replace(run, command=("table=pocket", "runs=/elsewhere", "train.max_steps=3", "judge.x='a b'"))
    found = commands(asked, "base", "dpo", commit)
    assert found[0] == first
    tail = """settings=base rows=dpo train.max_steps=3 'judge.x='"'"'a b'"'"''"""
    assert found[-1] == f".venv/bin/python -m recipes.reproduce table=pocket {tail}"
    published = replace(run, command=("table=paper", "rows=released,dpo,focalpo"))
    assert commands(published, "base", "dpo", commit)[-1].endswith(" rows=released,dpo"), "else it would be trained"


@pytest.mark.parametrize(
    ("kind", "values", "setup"),
    [
        ("generate", {"settings": {"backend": "vllm"}}, "make setup EXTRAS=dev,vllm"),
        ("judge", {"launch": {"endpoint": {"base_url": "vllm a-judge --port 1"}}}, "make setup EXTRAS=dev,vllm"),
        ("train", {"launch": {"train": {"kernels": "liger"}}}, "make setup EXTRAS=dev,liger"),
        ("train", {"settings": {"train": {"optimizer": "adamw8bit"}}}, "make setup EXTRAS=dev,bitsandbytes"),
    ],
)
def test_commands_install_what_the_stages_of_the_row_use(
    sealed_report: Path, tmp_path: Path, kind: str, values: dict, setup: str
) -> None:
    run = TableRun.read(sealed_report)
    assert commands(run, "base", "dpo", "abc")[1] == "make setup"
    place = f"base/dpo/1/{kind}"
    stage = json.loads((run.inputs[place] / "stage.json").read_text())
    (tmp_path / "stage.json").write_text(json.dumps(stage | {part: stage[part] | values[part] for part in values}))
    asked = replace(run, inputs=run.inputs | {place: tmp_path})
    assert commands(asked, "base", "dpo", "abc")[1] == setup
    assert commands(asked, "base", "sft", "abc")[1] == "make setup", "other rows do not use that stage"


def test_the_checklist_has_the_numbers_of_the_manifests(sealed_report: Path) -> None:
    run = TableRun.read(sealed_report)
    stages = chain(run.inputs.values())
    text = (sealed_report / "checklist.md").read_text()
    assert f"{len(stages)} sealed stages" in text and "2 seeds per row" in text and "200 or 400 prompts" in text
    # every invented stage took 1.5 s
    assert f"{len(stages) * 1.5 / 3600:.2f} stage-hours" in text
    assert "4 preference runs with dpo, focalpo" in text
    assert len([line for line in text.splitlines() if line[:1].isdigit()]) == 16
    assert "Nothing was trained" in checklist(run, Results("T", {}, {}, "dpo", "DPO", ()), {})


def test_runs_of_different_seeds_are_not_paired(sealed_report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows with one run each, of different seeds: equally many runs, but none share a data order."""
    run, asked = TableRun.read(sealed_report), []

    def compare(metric: object, base: object, same_seeds: bool) -> Difference:
        asked.append(same_seeds)
        return Difference(0.0, 0.0, 0.0, 1.0, 0.0, 1.0)

    monkeypatch.setattr(cells, "paired_difference", compare)
    lost = ("base/dpo/1/", "base/focalpo/2/", "base/sft/1/")
    inputs = {name: path for name, path in run.inputs.items() if not name.startswith(lost)}
    replace(run, inputs=inputs).results({}, read_rule(EVAL / "verdicts.yaml"), "T", ())
    assert asked == [True] * 3 + [False] * 3, "SFT's run has DPO's seed, FocalPO's has another"


def test_stages_of_a_tree_with_changes_are_named_and_commits_keep_the_word() -> None:
    digits = "0123456789abcdef0123456789abcdef01234567"
    made = {"train/a": digits, "judge/b": f"{digits}+changes", "judge/c": "unknown", "judge/d": "f" * 40 + "+changes"}
    stages = {title: {"commit": commit} for title, commit in made.items()}
    assert [short(commit) for commit in made.values()] == [
        "0123456789ab",
        "0123456789ab+changes",
        "unknown",
        "ffffffffffff+changes",
    ]
    (warning,) = dirty(stages)
    assert warning.startswith("made with changes that no commit holds: judge/b at 0123456789ab+changes, and 1 more;")
    assert dirty({"train/a": {"commit": digits}, "judge/c": {"commit": "unknown"}}) == []
