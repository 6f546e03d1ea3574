"""The page's drawings: places on an axis, colours that can be told apart, figures in the page's colours."""

import math
import re
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import pytest

from focalpo.judging.licences import LICENCES, not_to_share
from focalpo.judging.protocol import EVAL, load_protocol
from focalpo.reporting.blocks import p_text
from focalpo.reporting.facts import facts
from focalpo.reporting.forest import Axis, corrected, forest
from focalpo.scoring.differences import Difference
from focalpo.stages.folder import Folder, Stage
from tests.colours import DARK, LIGHT, contrast, lab
from tests.published import published

ROWS = [f"row-{place}" for place in range(1, 13)]


def test_the_distance_of_colours_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert lab("#ffffff") == pytest.approx((100, 0, 0), abs=0.05)
    assert lab("#ff0000") == pytest.approx((53.2, 80.1, 67.2), abs=0.1)  # the published value of sRGB's red


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_twelve_rows_have_colours_that_can_be_told_apart(theme: dict[str, str]) -> None:
    """A distance of 2.3 in CIELAB is just noticeable; WCAG asks 3 to 1 of lines on the page."""
    for one, other in combinations([*ROWS, "pale"], 2):
        assert math.dist(lab(theme[one]), lab(theme[other])) > 25, (one, other)
    assert min(contrast(theme[row], theme["paper"]) for row in [*ROWS, "mark", "link"]) >= 3
    assert all(contrast(theme[text], theme["paper"]) >= 4.5 for text in ("ink", "quiet", "link"))


def test_the_corrected_interval_is_bonferronis() -> None:
    """With many degrees of freedom Student's quantile is the normal one: 1 - .05 / 24 for twelve differences."""
    difference = Difference(1.0, 0.0, 2.0, 0.05, 0.5, 1e9)
    half = NormalDist().inv_cdf(1 - 0.05 / 24) * 0.5
    assert corrected(difference, 12) == pytest.approx((1 - half, 1 + half), abs=1e-4)


def test_an_axis_by_hand() -> None:
    """4% stay free at both ends: 92% are 20 points wide."""
    axis = Axis(-12.0, 8.0)
    assert [axis.at(points) for points in (-12, 0, 3, 8)] == ["4.00%", "59.20%", "73.00%", "96.00%"]
    assert axis.ticks() == [-10, -5, 0, 5] and Axis(-0.6, 0.5).ticks() == pytest.approx([-0.6, -0.4, -0.2, 0, 0.2, 0.4])


def percents(pattern: str, text: str) -> list[float]:
    return [float(each) for each in re.findall(pattern.replace("N", r"([\d.]+)%"), text)]


def test_every_dot_stands_at_its_number_on_the_axis_below() -> None:
    """The dot, its interval and the margin, read off the ticks, are the numbers that stand beside them."""
    results = published("pocket")
    subject, others = forest(results).split("<details", 1)
    assert re.search(r"<h2[^>]*>FocalPO minus DPO, in points</h2>", subject)
    marks = re.findall(r'<text x="([\d.]+)%" y="70%">([+-]?\d+)</text>', subject)
    (left, low), *_, (right, high) = [(float(at), int(points)) for at, points in marks]

    def points(percent: float) -> float:
        return low + (percent - left) * (high - low) / (right - left)

    lines = re.findall(r"<tr><th scope=\"row\">.*?</tr>", subject)
    assert len(lines) == 6 and "AlpacaEval LC<small>Pocket base</small>" in lines[0]
    for line in lines:
        ends = percents(r'class="thick" x1="N"', line) + percents(r'class="thick" x1="[\d.]+%" x2="N"', line)
        drawn = [*percents(r'cx="N"', line), *ends]
        said = [float(each) for each in re.findall(r"[+-]\d+\.\d", line.rpartition("<td>")[2])]
        assert [points(each) for each in drawn] == pytest.approx(said, abs=0.06)
        (start,), (width,) = percents(r'class="margin" x="N"', line), percents(r'width="N"', line)
        assert [points(start), points(start + width)] == pytest.approx([-3, 3], abs=0.01)
        assert points(*percents(r'class="zero" x1="N"', line)) == pytest.approx(0, abs=0.01)
    starred = re.findall(r'aria-label="[^"]+ \*"><rect.*?</svg>', others)
    filled = re.findall(r'<circle class="sure"', others)
    significant = sum(
        cell.p_holm < 0.05 for rows in results.rows.values() for row in rows for cell in row.cells.values()
    )
    assert len(starred) == len(filled) == significant > 0
    assert others.count('role="img"') == results.compared == 72


def test_a_table_without_differences_has_no_forest_plot() -> None:
    results = published("pocket")
    rows = {setting: [row for row in found if row.name == "dpo"] for setting, found in results.rows.items()}
    assert forest(type(results)(results.title, results.settings, rows, "dpo", "DPO", ())) == ""


def test_the_dialog_has_words_for_every_number() -> None:
    results = published("pocket")
    row = next(row for row in results.rows["base"] if row.name == "focalpo")
    lines = dict(facts(results, row, "ae2_lc"))
    assert not [name for name in lines if "_" in name]
    assert (lines["score"], lines["95% interval"]) == ("25.00", "[21.86, 28.15]")
    assert lines["p, if they differed by 3 points or more"] == p_text(row.cells["ae2_lc"].p_equal)
    assert lines["the paper's number"].startswith("not comparable")
    assert "nan" not in " ".join(lines.values())


def test_every_source_of_a_benchmark_has_a_licence_and_closed_ones_are_warned_of(tmp_path: Path) -> None:
    protocols = [path for path in EVAL.glob("*.yaml") if re.search("^benchmark:", path.read_text(), re.M)]
    assert {load_protocol(path).source for path in protocols} == LICENCES.keys()

    def sealed(protocol: str) -> Path:
        folder = Folder(tmp_path, Stage("benchmark", protocol, {"protocol": protocol}))
        with folder.being_made():
            folder.seal(0.0)
        return folder.path

    assert not_to_share(map(sealed, ["pocket_alpaca_eval", "arena_hard_v0_1", "ifeval"])) == ""
    warning = not_to_share(map(sealed, ["alpaca_eval_2", "arena_hard_v2_0"]))
    assert (
        warning.startswith("Do not share the folder answers/")
        and "AlpacaEval 2.0 (CC-BY-NC-4.0: no" in warning
        and "Arena" not in warning
    )
