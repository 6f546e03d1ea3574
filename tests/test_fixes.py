"""Pairs that training fixed and broke: shares and differences by hand, true and false labels apart, missing pairs."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import stdev

import pytest

from focalpo.reporting.content import held_out
from focalpo.reporting.fixes import Share, as_csv, as_markdown, other_pairs, shares
from focalpo.reporting.pair_groups import pair_groups
from focalpo.reporting.table_run import TableRun
from focalpo.scoring.student import quantile
from focalpo.stages.records import PairState, read_records, write_records
from recipes.publish import publish

MARGINS = {"fixed": (-1.0, 1.0), "broken": (1.0, -1.0), "right": (1.0, 1.0), "wrong": (-1.0, -1.0), "tied": (-1.0, 0.0)}


def trained(folder: Path, pairs: Sequence[tuple[str, bool | None]], first: int = 0, tokens: int = 3) -> Path:
    """A training whose held-out pairs made these moves, each with whether its label is false; ids count from first."""
    folder.mkdir(parents=True, exist_ok=True)
    states = [
        PairState(step, "test", f"p{number:02}", -5 + MARGINS[move][step], -5.0, 3, tokens, wrong)
        for number, (move, wrong) in enumerate(pairs, first)
        for step in (0, 1)
    ]
    write_records(folder / "dynamics.parquet", states)
    return folder


def run_of(tmp_path: Path, runs: dict[str, Sequence[tuple[str, bool | None]]], **first: int) -> TableRun:
    """The table of one setting; runs by ROW/SEED."""
    rows = {name.partition("/")[0]: {"label": name.partition("/")[0].upper()} for name in runs}
    table = {"settings": {"base": {"label": "Base"}}, "rows": rows, "compare_with": "dpo"}
    inputs = {
        f"base/{name}/train": trained(tmp_path / name, pairs, first.get(name.replace("/", "_"), 0))
        for name, pairs in runs.items()
    }
    return TableRun(tmp_path, table, (), inputs)


def of(found: list[Share], *place: str) -> Share:
    (share,) = [each for each in found if (each.row, each.labels, each.move) == place]
    return share


def test_shares_and_differences_by_hand(tmp_path: Path) -> None:
    """Of 20 true labels DPO fixes 8 and breaks 2, KTO fixes 5.5, a tie counting half; of 10 false ones KTO learns 4.

    With one seed the error of a mean is the deviation over pairs, divided by the root of their number.
    """
    dpo = [("fixed", False)] * 8 + [("broken", False)] * 2 + [("right", False)] * 7 + [("wrong", False)] * 3
    kto = [("fixed", False)] * 5 + [("tied", False), ("wrong", False), ("wrong", False)] + dpo[8:]
    false = [("wrong", True)] * 10
    run = run_of(tmp_path, {"dpo/1": [*dpo, *false], "kto/1": [*kto, *[("fixed", True)] * 4, *false[4:]]})
    found = shares(run)
    assert {each.split for each in found} == {"test"} and {each.runs for each in found} == {1}
    values = {(s.row, s.labels, s.move): s.value.value for s in found}
    assert values == {
        ("dpo", "true", "wrong_right"): 40, ("dpo", "true", "right_wrong"): 10, ("dpo", "true", "right_right"): 35,
        ("dpo", "true", "wrong_wrong"): 15, ("kto", "true", "wrong_right"): 27.5, ("kto", "true", "right_wrong"): 10,
        ("kto", "true", "right_right"): 35, ("kto", "true", "wrong_wrong"): 27.5,
        ("dpo", "false", "wrong_right"): 0, ("dpo", "false", "right_wrong"): 0, ("dpo", "false", "right_right"): 0,
        ("dpo", "false", "wrong_wrong"): 100, ("kto", "false", "wrong_right"): 40, ("kto", "false", "right_wrong"): 0,
        ("kto", "false", "right_right"): 0, ("kto", "false", "wrong_wrong"): 60,
    }  # fmt: skip
    fixed = of(found, "kto", "true", "wrong_right")
    assert fixed.pairs == 20 and fixed.difference is not None and fixed.difference.value == -12.5
    half = quantile(0.05, 19) * 100 * stdev([-1.0, -1.0, -0.5, *[0.0] * 17]) / 20**0.5
    assert fixed.difference.high - fixed.difference.value == pytest.approx(half, rel=1e-9)
    half = quantile(0.05, 19) * 100 * stdev([*[1.0] * 5, 0.5, *[0.0] * 14]) / 20**0.5
    assert fixed.value.high - fixed.value.value == pytest.approx(half, rel=1e-9)
    compared = [each for each in found if each.difference is not None]
    assert {(each.row, each.move) for each in compared} == {("kto", "wrong_right"), ("kto", "right_wrong")}
    learned = of(found, "kto", "false", "wrong_right")
    assert learned.difference is not None
    assert learned.p_holm == pytest.approx(4 * learned.difference.p), "the smallest of four"


def test_seeds_are_paired_and_a_pair_that_a_run_does_not_have_does_not_count_there(tmp_path: Path) -> None:
    """Both rows fix the same pairs with each seed, and another seed fixes others: no difference, and no error of it."""
    one, two = ([("fixed", None)] * count + [("wrong", None)] * (12 - count) for count in (3, 9))
    runs = {"dpo/1": one, "dpo/2": two, "kto/1": one, "kto/2": two}
    found = shares(run_of(tmp_path / "same", runs, dpo_2=4, kto_2=4))
    share = of(found, "kto", "all", "wrong_right")
    assert (share.pairs, share.runs) == (12, 2) and share.value.value == 50, "a quarter and three quarters"
    assert share.difference is not None
    assert (share.difference.value, share.difference.low, share.difference.high, share.difference.p) == (0, 0, 0, 1)
    assert share.value.high > share.value.value


def test_few_pairs_have_no_share_and_the_files_have_what_is_left(tmp_path: Path) -> None:
    many, few = [("fixed", False)] * 6 + [("wrong", False)] * 6, [("wrong", True)] * 3
    run = run_of(tmp_path, {"dpo/1": [*many, *few], "kto/1": [*many, *few]})
    found = shares(run)
    assert {each.labels for each in found} == {"true"}
    lines = list(csv.DictReader(StringIO(as_csv(found))))
    assert [line["move"] for line in lines] == ["wrong_right", "right_wrong", "right_right", "wrong_wrong"] * 2
    assert (lines[0]["value"], lines[0]["difference"], lines[4]["difference"]) == ("50.0", "-", "0.0")
    text = as_markdown(run, found)
    assert "| Base, held-out pairs | true labels (12): fixed | true labels (12): broken |" in text
    assert "| KTO | 50.0 ±33.2 (+0.0 ±0.0) | 0.0 ±0.0 (+0.0 ±0.0) |" in text and "all 2 differences" in text
    assert shares(run_of(tmp_path / "empty", {})) == []


def test_a_row_with_pairs_of_its_own_is_not_compared(tmp_path: Path) -> None:
    """After another round the same prompts have other answers, and how many labels are false differs, too."""
    pairs = [("fixed", False)] * 6 + [("wrong", False)] * 6
    run = run_of(tmp_path, {"dpo/1": pairs, "kto/1": pairs, "dpo/2": pairs, "rounds/1": pairs[1:]})
    trained(tmp_path / "rounds/1", pairs, tokens=4)
    found = shares(run)
    assert {each.row for each in found if each.difference is not None} == {"kto"}
    (warning,) = other_pairs(run, held_out(run))
    assert warning.startswith("trained on other pairs than DPO: ROUNDS. Figures and tables of pairs show")
    assert "other pairs" in as_markdown(run, found) and "| ROUNDS | 50.0 ±33.2 | 0.0 ±0.0 |" in as_markdown(run, found)
    trained(tmp_path / "rounds/1", pairs[1:], first=1)
    text = as_markdown(run, shares(run))
    assert "true labels (11 to 12): fixed" in text and "| ROUNDS | 45.5 " in text and "all 2 differences" in text
    trained(tmp_path / "rounds/1", pairs)
    assert "| ROUNDS | 50.0 ±33.2 (+0.0" in (text := as_markdown(run, shares(run))) and "other pairs" not in text
    assert other_pairs(run, held_out(run)) == []


def test_a_table_without_the_compared_row_has_shares_and_no_differences(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"kto/1": [("fixed", False)] * 6 + [("wrong", False)] * 6})
    text = as_markdown(run, shares(run))
    assert "| KTO | 50.0 ±33.2 | 0.0 ±0.0 |" in text and "in brackets" not in text


def test_records_that_are_killed_while_they_are_written_leave_those_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training rewrites its records as it goes, and reads them when it is resumed."""
    records = [PairState(0, "test", "a", -1.0, -2.0, 2, 4, None)]
    write_records(tmp_path / "dynamics.parquet", records)

    def torn(table: object, path: Path) -> None:
        path.write_bytes(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr("pyarrow.parquet.write_table", torn)
    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "dynamics.parquet", 2 * records)
    assert read_records(tmp_path / "dynamics.parquet", PairState) == records


def test_trainings_on_single_answers_have_none(sealed_report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with data=unpaired: trained, and without pairs that could be fixed."""
    run = TableRun.read(sealed_report)
    assert shares(run) and pair_groups(run)
    monkeypatch.setattr(TableRun, "changes", lambda *_: [])
    assert shares(run) == [] == pair_groups(run)


def test_a_report_has_them_and_publishing_takes_them(sealed_report: Path, tmp_path: Path) -> None:
    lines = list(csv.DictReader(StringIO((sealed_report / "fixes.csv").read_text())))
    assert {(line["row"], line["split"], line["pairs"]) for line in lines} == {
        (row, split, "36") for row in ("dpo", "focalpo") for split in ("test", "train")
    }, "of 40 invented pairs four labels are false, too few"
    assert (sealed_report / "fixes.md").read_text().startswith("Per cent of the pairs")
    (tmp_path / "README.md").write_text("<!-- table: docs/pocket/fixes.md -->\n<!-- end of table -->\n")
    publish(sealed_report, tmp_path)
    assert "true labels (36): fixed" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "docs/pocket/fixes.csv").read_bytes() == (sealed_report / "fixes.csv").read_bytes()
