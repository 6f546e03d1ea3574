"""The study of weights: what is said of all rows, the tables of differences, and the panels of its figure, by hand."""

from dataclasses import replace
from math import nan
from pathlib import Path

from focalpo.config.compose import compose_table
from focalpo.planning.table import compose_rows, only_row
from focalpo.reporting.cells import Results, RowResult
from focalpo.reporting.content import draw
from focalpo.reporting.document import as_summary
from focalpo.reporting.finding import of_rows
from focalpo.reporting.fixes import Share
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.weighting import pair_panels, score_panels, weighting_figure
from focalpo.scoring.differences import Difference
from tests.test_reporting_blocks import cell

SETTINGS = {"base_0": "Base, 0% flipped", "base_10": "Base, 10% flipped", "base_hard": "Base, 10% hard (on hard pairs)"}
POINTS = {  # points, corrected p, p of equivalence by setting
    "cdpo": [(0.5, 1.0, 0.01), (-0.25, 1.0, 0.02), (0.1, 1.0, 0.03)],
    "rpo": [(4.0, 0.01, 0.9), (1.0, 0.3, 0.04), (5.0, 0.049, 0.9)],
    "apo_down": [(-9.0, 0.001, 0.99), (6.0, 0.04, 0.9), (0.0, 1.0, 0.05)],
}


def difference(points: float) -> Difference:
    return Difference(points, points - 2, points + 2, 0.5, 1.0, 399.0)


def results() -> Results:
    rows = {}
    for place, setting in enumerate(SETTINGS):
        found = [RowResult("dpo", "DPO", {"ae2_wr": cell(value=25)}, {}, {})]
        for row, numbers in POINTS.items():
            points, p, equal = numbers[place]
            other = replace(cell(value=25 + points), difference=difference(points), p_holm=p, p_equal=equal)
            found.append(RowResult(row, row.upper(), {"ae2_wr": other}, {}, {}))
        rows[setting] = found
    return Results("T", SETTINGS, rows, "dpo", "DPO", (), margin=3.0)


def test_what_is_said_of_all_rows() -> None:
    assert of_rows(results()) == (
        "Of 3 rows beside DPO, in 3 scores each: significantly ahead RPO (2), APO_DOWN (1); behind APO_DOWN (1); "
        "within ±3 points in all of them CDPO."
    )
    alone = replace(results(), rows={setting: rows[:1] for setting, rows in results().rows.items()})
    assert of_rows(alone) == ""


def test_many_rows_in_many_settings_are_a_table_of_differences() -> None:
    text = as_summary(results())
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| AlpacaEval WR | Base, 0% flipped | Base, 10% flipped | Base, 10% hard |"
    assert table[2].startswith("| DPO | 25.0 ±") and table[3] == "| CDPO | +0.5 = | -0.2 = | +0.1 = |"
    assert table[4:] == ["| RPO | +4.0\\* | +1.0 = | +5.0\\* |", "| APO_DOWN | -9.0\\* | +6.0\\* | +0.0 |"]
    assert (
        of_rows(results()) in text and "correction for 9 differences; = shown to differ by less than 3 points" in text
    )
    few = replace(results(), rows={setting: rows[:3] for setting, rows in results().rows.items()})
    assert "| Base, 0% flipped | CDPO | 25.5 ±" in as_summary(few), "a few rows have a line each, with their scores"


def test_the_panels_have_the_differences_of_scores_and_of_held_out_pairs(tmp_path: Path) -> None:
    place = ("base_0", "rpo")
    fixed = [
        Share(*place, split, labels, move, 50, 5, difference(50.0), gap and difference(gap), p)
        for split, labels, move, gap, p in (
            ("test", "true", "wrong_right", 3.0, 0.01),
            ("test", "true", "right_wrong", -1.0, 0.5),
            ("test", "true", "right_right", None, nan),
            ("train", "true", "wrong_right", 7.0, 0.5),
        )
    ]
    panels = pair_panels(fixed)
    assert [panel.title for panel in panels] == [
        "held-out pairs,\ntrue labels,\nfixed %", "held-out pairs,\ntrue labels,\nbroken %"
    ]  # fmt: skip
    assert [panel.found for panel in panels] == [{("rpo", "base_0"): (3.0, 0.01)}, {("rpo", "base_0"): (-1.0, 0.5)}]
    (panel,) = score_panels(results())
    assert panel.found["apo_down", "base_0"] == (-9.0, 0.001) and len(panel.found) == 9
    weighting_figure(results(), fixed, tmp_path / "weighting")
    drawn = (tmp_path / "weighting.svg").read_text()
    assert drawn.count("<image") == 3, "one heat map per panel"
    weighting_figure(results(), [], tmp_path / "scores")


def test_without_the_compared_row_there_is_no_figure_of_differences(tmp_path: Path) -> None:
    alone = {setting: [replace(row, cells={"ae2_wr": cell(value=25)}) for row in rows[1:]]
             for setting, rows in results().rows.items()}  # fmt: skip
    run = TableRun(tmp_path, {"study": "weighting", "settings": {}, "rows": {}}, (), {})
    assert [picture.name for picture in draw(run, replace(results(), rows=alone), {}, tmp_path)] == ["gradient"]


def test_the_values_that_two_tables_share_are_searched_with_the_same_points() -> None:
    for table, other in (("pocket", "weighting"), ("laptop", "weighting_laptop")):
        one, two = compose_table(table), compose_table(other)
        shared = one.searches.keys() & two.searches.keys()
        assert {"dpo", "focalpo"} <= shared and one.search_seeds == two.search_seeds
        assert all(one.searches[row] == two.searches[row] for row in shared)
    pocket, weighting = compose_table("pocket"), compose_table("weighting")
    searched = [
        next(iter(compose_rows(only_row(table, setting, "dpo"), []).values()))
        for table, settings in ((pocket, pocket.settings), (weighting, weighting.search_settings))
        for setting in settings
    ]
    assert searched[:2] == searched[2:], "the same data: the trainings are shared"
