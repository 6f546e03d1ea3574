"""Changed code is reported in one line, and a sealed stage can be set aside to be made again."""

from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.running import remade
from focalpo.running.remade import changed_code
from focalpo.stages.folder import Folder, Stage
from recipes.again import again

PAIRS = Stage("pairs", "p", {})
TRAIN = Stage("train", "dpo-s1", {"beta": 0.1, "code": "aaaaaaaaaaaa"}, {"pairs": PAIRS})
JUDGE = Stage("judge", "dpo-s1", {}, {"completions": TRAIN})


def sealed(runs: Path, *stages: Stage) -> None:
    for stage in stages:
        folder = Folder(runs, stage)
        with folder.being_made() as job:
            (job.path / "made.txt").write_text("made")
            folder.seal(1.0)


def test_a_stage_of_changed_code_is_told_with_the_commit_that_made_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("focalpo.stages.folder.commit", lambda: "0123456789abcdef+changes")
    sealed(tmp_path, PAIRS, TRAIN)
    edited = replace(TRAIN, settings=TRAIN.settings | {"code": "bbbbbbbbbbbb", "a new setting": 1})
    (line,) = changed_code(tmp_path, [edited], [])
    assert line.startswith(f"1 stage is made again, because code that their keys depend on has changed: {edited.title}")
    assert f"made before at commit 0123456789ab+changes as {TRAIN.title}; the old folders are kept" in line
    for other in (replace(edited, settings=edited.settings | {"beta": 0.2}), replace(edited, name="dpo-s2"), TRAIN):
        assert changed_code(tmp_path, [other], []) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9000/v1", "http://elsewhere:8000/v1"])
def test_another_judge_is_told_with_the_name_that_keeps_the_scores(tmp_path: Path, address: str) -> None:
    judged = replace(JUDGE, settings={"protocols": {}, "judge": "http://127.0.0.1:8000/v1", "code": "a"})
    sealed(tmp_path, judged)
    moved = replace(judged, settings=judged.settings | {"judge": address})
    (line,) = changed_code(tmp_path, [moved], [])
    assert line.startswith(f"1 stage is judged again, because the judge is another: {moved.title}, judged before by")
    assert line.endswith("keep its scores by judge.name='http://127.0.0.1:8000/v1'")
    assert changed_code(tmp_path, [judged], []) == []


def test_a_sealed_stage_of_another_recipe_is_told_once_and_how_to_make_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(tmp_path, PAIRS, TRAIN, JUDGE)
    assert changed_code(tmp_path, [], [PAIRS, TRAIN, JUDGE]) == []
    monkeypatch.setattr(remade, "commit", lambda: "another")
    assert changed_code(tmp_path, [], [PAIRS, TRAIN, JUDGE]) == [], "another commit with the same code"
    monkeypatch.setattr(remade, "recipe_code", lambda kind: "other" if kind in ("train", "judge") else _real(kind))
    (line,) = changed_code(tmp_path, [], [PAIRS, TRAIN, JUDGE])
    assert line.startswith(f"2 stages are sealed by other code than this: {TRAIN.title}, at commit ")
    assert line.endswith(f", and 1 more; if the change matters: make again STAGE={TRAIN.title}")


_real = remade.recipe_code


@pytest.mark.parametrize("name", [TRAIN.title, "train/dpo-s1", "{runs}/" + TRAIN.title, TRAIN.title + "/"])
def test_a_stage_set_aside_is_not_sealed_and_what_was_made_from_it_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    sealed(tmp_path, PAIRS, TRAIN, JUDGE)
    again([name.format(runs=tmp_path), f"runs={tmp_path}"])
    assert not Folder(tmp_path, TRAIN).path.exists() and (tmp_path / ".again" / TRAIN.title / "made.txt").exists()
    assert Folder(tmp_path, PAIRS).sealed and Folder(tmp_path, JUDGE).sealed
    first, second = capsys.readouterr().out.splitlines()
    assert "the next run makes it again" in first and second.endswith(JUDGE.title)
    sealed(tmp_path, TRAIN)
    again([name.format(runs=tmp_path), f"runs={tmp_path}"])
    aside = sorted(path.name for path in (tmp_path / ".again" / "train").iterdir())
    assert aside == [Path(TRAIN.title).name, f"{Path(TRAIN.title).name}-2"], "nothing is deleted"


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "its argument is missing: run make again STAGE="),
        (["train/dpo-s9"], "has no stage 'train/dpo-s9'; write it as KIND/NAME-KEY"),
        (["dpo-s1"], "has no stage 'dpo-s1'"),
        (["train/unfinished"], "is not complete"),
        (["train/twice"], "may be twice-.*, twice-.*; name one with its key"),
    ],
)
def test_a_wrong_name_moves_nothing(tmp_path: Path, names: list[str], message: str) -> None:
    sealed(tmp_path, PAIRS, TRAIN, Stage("train", "twice", {"a": 1}), Stage("train", "twice", {"a": 2}))
    with Folder(tmp_path, Stage("train", "unfinished", {})).being_made():
        pass
    with pytest.raises(ValueError, match=message):
        again([*names, f"runs={tmp_path}"])
    assert not (tmp_path / ".again").exists()
