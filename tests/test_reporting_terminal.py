"""The end of a run: the finding in one sentence, one table that fits a terminal, and the warnings."""

from dataclasses import replace

import pytest

from focalpo.reporting.cells import Results, RowResult
from focalpo.reporting.finding import finding
from focalpo.reporting.terminal import WIDTH, as_terminal
from focalpo.scoring.differences import Difference
from focalpo.stages.metrics import LEVELS
from tests.test_reporting_blocks import cell

SETTINGS = {"base": "Pocket base (off-policy pairs)", "instruct": "Pocket instruct (on-policy pairs)"}


def table(*differences: tuple[float, float], settings: dict[str, str] = SETTINGS) -> Results:
    """DPO and FocalPO, with FocalPO's differences in WR (points, corrected p), one per setting."""
    rows = {}
    for setting, (points, p) in zip(settings, differences, strict=True):
        other = replace(
            cell(value=25 + points),
            difference=Difference(points, points - 2, points + 2, 0.5, 1.0, 399.0),
            p_holm=p,
            detectable=1.6,
        )
        rows[setting] = [
            RowResult("dpo", "DPO", {"ae2_wr": cell(value=25)}, {}, {}),
            RowResult("focalpo", "FocalPO", {"ae2_wr": other}, {}, {}),
        ]
    return Results("Table 1, commit abc", settings, rows, "dpo", "DPO", ())


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        (
            [(0.4, 0.8), (-0.7, 0.05)],
            "FocalPO and DPO cannot be told apart: none of 2 differences is significant (p < .05 after Holm's "
            "correction), the largest difference is -0.7 [-2.7, +1.3] (AlpacaEval WR, Pocket instruct); a true "
            "difference of 1.6 points would be significant 4 times in 5.",
        ),
        (
            [(3.0, 0.01), (-5.0, 0.049)],
            "FocalPO is significantly ahead of DPO in 1 and behind in 1 of 2 scores (p < .05 after Holm's correction); "
            "the largest difference is -5.0 [-7.0, -3.0] (AlpacaEval WR, Pocket instruct).",
        ),
    ],
)
def test_the_finding_by_hand(differences: list[tuple[float, float]], expected: str) -> None:
    assert finding(table(*differences)) == expected


def test_the_finding_says_in_how_many_scores_the_difference_is_shown_to_be_small() -> None:
    found = table((0.4, 0.8), (-0.7, 0.05))
    for rows, p in zip(found.rows.values(), (0.01, 0.2), strict=True):
        rows[1] = replace(rows[1], cells={"ae2_wr": replace(rows[1].cells["ae2_wr"], p_equal=p)})
    text = finding(replace(found, margin=3.0))
    assert text.endswith("4 times in 5. It is shown to be within ±3 points in 1 of 2 scores.")


def test_without_both_rows_there_is_no_finding() -> None:
    whole = table((3.0, 0.01), (3.0, 0.01))
    alone = replace(whole, rows={setting: rows[:1] for setting, rows in whole.rows.items()})
    assert finding(alone).startswith("No finding")


def test_a_row_that_is_compared_alone_is_what_the_finding_is_about() -> None:
    whole = table((3.0, 0.01), (3.0, 0.01))
    rows = {setting: [dpo, replace(other, name="mine", label="Mine")] for setting, (dpo, other) in whole.rows.items()}
    assert finding(replace(whole, rows=rows)).startswith("Mine is significantly ahead of DPO in 2 and behind in 0 of 2")
    two = {setting: [*found, replace(found[1], name="yours", label="Yours")] for setting, found in rows.items()}
    said = finding(replace(whole, rows=two, margin=3.0))
    assert said.startswith("Of 2 rows beside DPO, in 2 scores each: significantly ahead Mine (2), Yours (2); behind")


def test_two_settings_are_side_by_side_and_a_significant_difference_has_a_star() -> None:
    text = as_terminal(table((0.4, 0.8), (3.0, 0.01)), "pocket")
    assert max(map(len, text.splitlines())) <= WIDTH
    above, head, dpo, focalpo = text.split("\n\n")[2].splitlines()
    assert [above.index(name) for name in ("Pocket base", "Pocket instruct")] == [
        9,
        21,
    ], "above their first columns, as wide as a score with its sign"
    assert head.split() == ["AE2", "WR", "AE2", "WR"], "columns of which no row has a number are not shown"
    assert dpo.split() == ["DPO", "25.0", "±2.0", "25.0", "±2.0"]
    assert focalpo.split() == ["FocalPO", "25.4", "±2.0", "28.0", "±2.0*"]
    assert dpo.index("25.0", 21) == focalpo.index("28.0"), "a star does not shift a number"


def test_many_settings_are_below_each_other_within_the_width() -> None:
    settings = {f"base_{noise}": f"Pocket base, {noise}% of labels flipped" for noise in range(8)}
    text = as_terminal(table(*[(0.4, 0.8)] * 8, settings=settings), "pocket")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("AE2 WR") == 8


def test_columns_that_do_not_fit_go_on_below() -> None:
    """Nine columns of a score of 10 places, two between them, and labels of 40: 148 wide, so two parts of 5 and 4."""
    names = ["ae2_lc", "ae2_wr", "arena_hard"]
    names += [f"{name}_{level}" for name in ("ifeval", "ifeval_new", "ifeval_greedy") for level in LEVELS]
    label = "a method with a name of forty characters"
    rows = [RowResult("dpo", label, {name: cell(value=10.0 + n) for n, name in enumerate(names)}, {}, {})]
    text = as_terminal(Results("T", {"base": "Base"}, {"base": rows}, "dpo", "DPO", ()), "files")
    assert max(map(len, text.splitlines())) <= WIDTH
    heads = [line.split("  ") for line in text.splitlines() if " instr" in line]
    assert [[word.strip() for word in line if word.strip()] for line in heads] == [
        ["AE2 LC", "AE2 WR", "Arena-Hard", "IF prompt", "IF instr"],
        ["new prompt", "new instr", "greedy prompt", "greedy instr"],
    ]
    assert [f"{10 + n}.0" in text for n in range(len(names))] == [True] * len(names)


def test_the_finding_comes_first_and_warnings_before_the_numbers() -> None:
    found = replace(table((0.4, 0.8), (3.0, 0.01)), warnings=("some answers are empty",))
    title, sentence, warning, _, *_ = as_terminal(found, "pocket").split("\n\n")
    assert (title, warning) == (found.title, "WARNING: some answers are empty")
    assert " ".join(sentence.split()) == finding(found)


def test_many_warnings_are_counted() -> None:
    text = as_terminal(replace(table((0.4, 0.8), (3.0, 0.01)), warnings=("a", "b", "c", "d", "e")), "pocket")
    assert text.count("WARNING") == 3 and "... and 2 more warnings, see report.md" in text
