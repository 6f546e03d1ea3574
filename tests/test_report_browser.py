"""The report as a reader sees it: in a real Chromium, from disk, light and dark, by keyboard, on a phone."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from focalpo.reporting.blocks import Block
from focalpo.reporting.page import Content
from focalpo.reporting.page import page as html
from tests.published import published

pytestmark = pytest.mark.browser
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
SCREENS = {"desk": (1200, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "no Chromium on this machine; on Debian: apt-get install chromium"
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # root's Chromium refuses to start inside a sandbox
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SCREENS)
def page(request: pytest.FixtureRequest, browser: Browser, scheme: str, sealed_report: Path) -> Iterator[Page]:
    """The report, opened from disk without a network; every error or message of the browser fails the test."""
    width, height = SCREENS[request.param]
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height}, offline=True)
    opened = context.new_page()
    messages: list[str] = []
    opened.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("requestfailed", lambda request: messages.append(f"failed: {request.url}"))
    opened.goto((sealed_report / "report.html").as_uri())
    opened.wait_for_selector("#answer-view .sides")
    yield opened
    assert messages == []
    context.close()


def violations(page: Page) -> list[str]:
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


def column(page: Page, place: int) -> list[str]:
    return [
        cell.inner_text().split()[0] for cell in page.locator(f"table.sortable tbody tr > :nth-child({place})").all()
    ]


def test_the_page_opens_without_errors_and_is_accessible(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert violations(page) == [], "with the forest plot of every row and what the judge wrote"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no horizontal overflow"


def test_a_title_sorts_its_column_down_up_and_back(page: Page) -> None:
    before = column(page, 2)
    title = page.get_by_role("button", name="AlpacaEval LC").first
    title.focus()
    page.keyboard.press("Enter")
    assert column(page, 2) == sorted(before, key=float, reverse=True)
    expect(page.locator("table.sortable th").nth(1)).to_have_attribute("aria-sort", "descending")
    page.keyboard.press("Enter")
    assert column(page, 2) == sorted(before, key=float)
    page.keyboard.press("Enter")
    assert column(page, 2) == before


def test_a_number_opens_its_provenance_by_keyboard_and_closes_again(page: Page) -> None:
    cell = page.locator("button.cell[data-cell='base/focalpo/ae2_lc']")
    cell.focus()
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog")
    expect(panel).to_be_visible()
    expect(panel.get_by_role("heading", level=2)).to_have_text("FocalPO, Pocket base (off-policy pairs), AlpacaEval LC")
    expect(panel).to_contain_text("recipes.reproduce table=pocket settings=base rows=dpo,focalpo seeds=2")
    expect(panel.locator("dt", has_text="standard deviation over training seeds")).to_be_visible()
    assert not [name for name in panel.locator("dl").first.locator("dt").all_inner_texts() if "_" in name]
    judge = panel.locator("details", has_text="judge/base-focalpo-s1")
    judge.locator("summary").click()
    expect(judge).to_contain_text("alpaca_eval.parquet")
    expect(judge).to_contain_text("sha256")
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(cell).to_be_focused()
    page.locator("button.cell[data-cell='base/sft/arena_hard']").click()
    panel.get_by_role("button", name="Read the answers").press("Enter")
    expect(panel).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("prompt 1 of 200")
    expect(page.locator("#answer-view .sides > div").nth(1)).to_contain_text("sft-s1 says")


def test_any_two_rows_are_shown_side_by_side(page: Page) -> None:
    sides = page.locator("#answer-view .sides > div")
    expect(sides.nth(0)).to_contain_text("base-dpo-s1 says")
    expect(sides.nth(1)).to_contain_text("base-focalpo-s1 says")
    page.select_option("#answer-left", "sft")
    expect(sides.nth(0)).to_contain_text("sft-s1 says")
    first = page.locator("#answer-view").inner_text()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("status")).to_have_text("prompt 2 of 400")
    assert page.locator("#answer-view").inner_text() != first
    page.select_option("#answer-benchmark", "arena_hard")
    expect(page.get_by_role("status")).to_have_text("prompt 1 of 200")
    game = sides.nth(0).locator("summary").nth(1)
    expect(game).to_have_text(
        "Game 2: A is this answer, shown first, B is the reference. Verdict: this answer is slightly better (A>B)."
    )
    game.press("Enter")
    expect(sides.nth(0)).to_contain_text("Game 2 was close. My final verdict is tight: [[A>B]]")
    page.select_option("#answer-filter", "left")
    expect(page.get_by_role("status")).to_contain_text("prompt 1 of ")
    assert 0 < int(page.get_by_role("status").inner_text().split()[-1]) < 200


def test_curves_follow_the_metric_and_the_chosen_rows(page: Page) -> None:
    lines = page.locator("#curve-plot polyline")
    expect(lines).to_have_count(2)
    page.select_option("#curve-metric", "logps_rejected")
    expect(page.locator("#curve-plot svg")).to_have_attribute("aria-label", "log-prob of rejected, nats over steps")
    page.get_by_role("checkbox", name="DPO", exact=True).uncheck()
    expect(page.locator("#curve-plot polyline[stroke='var(--pale)']")).to_have_count(1)
    expect(page.locator("#curve-plot text.row")).to_have_text(["FocalPO"])


def test_the_forest_plot_keeps_its_text_size_and_its_place_above_the_table(page: Page) -> None:
    phone = page.viewport_size == {"width": 390, "height": 844}
    assert page.locator("#forest-rows").evaluate("each => each.open") is not phone, "on a phone the table comes sooner"
    rows = page.locator("#forest > table tbody tr")
    expect(rows).to_have_count(3)
    for row in rows.all():
        drawing, text = row.locator("svg").bounding_box(), row.locator("td").last.bounding_box()
        assert drawing is not None and text is not None and drawing["width"] >= 120 and drawing["height"] >= 20
        assert text["x"] >= drawing["x"] + drawing["width"] and text["x"] + text["width"] <= page.evaluate("innerWidth")
    tops = [page.locator(name).bounding_box()["y"] for name in (".finding", "#forest", "#table")]
    assert tops == sorted(tops)


@pytest.fixture
def twelve(browser: Browser, scheme: str, tmp_path: Path) -> Iterator[Page]:
    """The page of the published pocket table, on a phone, with invented curves that cross and end close together."""
    results = published("pocket")
    rows = [row.name for row in results.rows["base"] if row.name != "sft"]
    curves = {row: {"step": [1.0, 2.0], "loss": [place / 9, 1 - place / 90]} for place, row in enumerate(rows)}
    nothing = {setting: {} for setting in results.rows}
    content = Content(results, "", "", "Do not share.", nothing, {"base": curves, "instruct": {}}, nothing, (), (), {},
                      Block("", (), ()))  # fmt: skip
    (tmp_path / "report.html").write_text(html(content))
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844}, offline=True)
    opened = context.new_page()
    opened.goto((tmp_path / "report.html").as_uri())
    yield opened
    context.close()


def test_twelve_rows_have_twelve_colours_and_names_that_do_not_overlap(twelve: Page) -> None:
    twelve.get_by_role("button", name="Select all").press("Enter")
    lines = twelve.locator("#curve-plot polyline").all()
    assert len({line.evaluate("each => getComputedStyle(each).stroke") for line in lines}) == len(lines) == 12
    names = twelve.locator("#curve-plot text.row")
    assert sorted(names.all_text_contents())[:3] == ["CPO", "DPO", "Focal loss"]
    boxes = sorted((box["y"], box["x"] + box["width"]) for name in names.all() if (box := name.bounding_box()))
    assert all(below - above >= 13 for (above, _), (below, _) in pairwise(boxes)), "a line of text apart"
    assert max(right for _, right in boxes) <= 390
    expect(twelve.locator("#curve-plot text.axis")).to_have_text(["loss", "step"])
    assert violations(twelve) == []


def test_every_figure_is_wide_enough_to_read(page: Page) -> None:
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        # Figures are drawn 10 to 12 inches wide: 80 pixels per inch make their smallest type 8 pixels high.
        assert box is not None and box["width"] >= 950 and box["height"] >= 150
