"""The check of a rehearsal fails when a cell or an input is missing."""

from pathlib import Path

import pytest

from focalpo.config.schema import RowConfig, TableConfig, TableSettingConfig
from focalpo.stages.folder import Folder, Stage
from rehearsal.check import checked

TABLE = TableConfig(
    "paper",
    {"base": TableSettingConfig("Base", [], "mistral_base")},
    {"dpo": RowConfig("DPO", 1), "focalpo": RowConfig("FocalPO", 1)},
    "dpo",
    False,
    None,
)


def left_behind(runs: Path, values: tuple[str, str] = ("1.5", "2.5")) -> Path:
    """Two trained rows and their report."""
    trained = {}
    for row in ("dpo", "focalpo"):
        trained[row] = Stage("train", row, {"row": row})
        with Folder(runs, trained[row]).being_made() as job:
            (job.path / "model").mkdir()
            (job.path / "model" / "model.safetensors").write_text(row)
        Folder(runs, trained[row]).seal(1.0)
    report = Folder(runs, Stage("report", "paper", {}, trained))
    with report.being_made() as job:
        lines = ["setting,row,column,value"]
        for row, value in zip(("dpo", "focalpo"), values, strict=True):
            lines += [f"base,{row},{column},{value}" for column in ("ae2_lc", "ae2_wr", "arena_hard")]
        (job.path / "table1.csv").write_text("\n".join(lines) + "\n")
    report.seal(1.0)
    return Folder(runs, trained["dpo"]).path


def test_a_complete_table_on_a_complete_chain_is_summarized_in_one_line(tmp_path: Path) -> None:
    left_behind(tmp_path)
    assert checked(tmp_path, TABLE).startswith("2 rows, no gap in the table; 3 sealed stages, no gap in the chain:")


def test_a_cell_without_a_number_is_named(tmp_path: Path) -> None:
    left_behind(tmp_path, values=("1.5", "-"))
    with pytest.raises(ValueError, match=r"the table has no number in \[\('base', 'focalpo'\)"):
        checked(tmp_path, TABLE)


@pytest.mark.parametrize("ours, step, gap", [("-", "end (4)", True), ("nan", "start", True), ("-", "100", False)])
def test_a_number_of_the_authors_without_one_of_ours_is_named(tmp_path: Path, ours: str, step: str, gap: bool) -> None:
    """A rehearsal has four steps: what the author had at step 100 it has not."""
    left_behind(tmp_path)
    (report,) = (tmp_path / "report").iterdir()
    report = Folder.at(report)
    (report.path / "manifest.json").unlink()
    text = f"what,step,quantity,ours,author,verdict\nmistral_uf,{step},loss,{ours},0.5,differs\n"
    (report.path / "anchors.csv").write_text(text)
    report.seal(1.0)
    if gap:
        with pytest.raises(ValueError, match="nothing of ours stands beside the author's mistral_uf, loss"):
            checked(tmp_path, TABLE)
    else:
        assert checked(tmp_path, TABLE)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    (left_behind(tmp_path) / "manifest.json").unlink()
    with pytest.raises(ValueError, match="was made from train/dpo-.*, which is not sealed"):
        checked(tmp_path, TABLE)


def test_a_changed_output_is_named(tmp_path: Path) -> None:
    (left_behind(tmp_path) / "model" / "model.safetensors").write_text("edited")
    with pytest.raises(ValueError, match="does not match its manifest"):
        checked(tmp_path, TABLE)


def test_of_two_reports_the_newest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, of a rehearsal that was interrupted, has a gap."""
    monkeypatch.setattr("focalpo.stages.folder.time.strftime", lambda *_: "2000-01-01T00:00:00Z")
    old = Folder(tmp_path, Stage("report", "paper", {"rows": "some"}))
    with old.being_made() as job:
        (job.path / "table1.csv").write_text("setting,row,column,value\n")
    old.seal(1.0)
    monkeypatch.undo()
    left_behind(tmp_path)
    assert checked(tmp_path, TABLE).startswith("2 rows, no gap in the table")
