"""The report: one page with every number, its provenance and figures; every format shows the same numbers."""

import csv
import json
import re
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from focalpo.planning.stages import in_order
from focalpo.reporting import figures
from focalpo.reporting.page import PAGE_COLOURS
from focalpo.reporting.provenance import chain, warnings_of
from focalpo.reporting.table_run import TableRun, newest_reports
from focalpo.reporting.tables import tex
from focalpo.stages.folder import Folder, Job, read_manifest
from focalpo.stages.metrics import column_of
from focalpo.stages.records import AlpacaVerdict, read_records, write_records
from recipes import reproduce
from recipes.publish import publish
from recipes.why import why
from tests.colours import DARK, LIGHT, contrast
from tests.conftest import made
from tests.notebook_text import notebook_text
from tests.sealed_table import planned, sealed_stages


def scores(report: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (report / "table1.csv").open() as file:
        return {(line["row"], line["column"]): line for line in csv.DictReader(file)}


def shown(report: Path, row: str = "focalpo", column: str = "ae2_wr") -> str:
    return f"{float(scores(report)[row, column]['value']):.1f}"


def data_of(report: Path) -> dict:
    text = (report / "report.html").read_text()
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_is_one_file_without_network_requests(sealed_report: Path) -> None:
    text = (sealed_report / "report.html").read_text()

    class Addresses(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [
                value or "" for name, value in attrs if name in ("src", "href") and tag in ("link", "script")
            ]

    Addresses().feed(text)
    assert Addresses.found == ["data:,"], "an empty icon, so that no browser requests one"
    assert not re.search(r"@import|fetch\(|XMLHttpRequest", text)
    assert len(text) < 5_000_000


def test_every_cell_has_its_numbers_seeds_commands_and_chain(sealed_report: Path) -> None:
    data = data_of(sealed_report)
    rows = {row["name"]: row for row in data["rows"]["base"]}
    assert list(rows) == ["sft", "dpo", "focalpo"], "in the order of the table"
    cell = dict(rows["focalpo"]["cells"]["ae2_wr"])
    line = scores(sealed_report)["focalpo", "ae2_wr"]
    number = {name: float(text) for name, text in line.items() if re.fullmatch(r"-?[\d.]+(e-\d+)?", text)}
    assert cell["score"] == f"{number['value']:.2f}"
    assert cell["95% interval"] == f"[{number['low']:.2f}, {number['high']:.2f}]"
    ends = f"[{number['difference_low']:+.2f}, {number['difference_high']:+.2f}]"
    assert cell["minus DPO"] == f"{number['difference']:+.2f} {ends}"
    assert (cell["training seeds"], cell["prompts"]) == ("2", "400")
    assert rows["focalpo"]["seeds"] == ["1", "2"]
    command = ".venv/bin/python -m recipes.reproduce table=pocket settings=base rows=dpo,focalpo seeds=2"
    assert rows["focalpo"]["commands"][-1] == command
    for title in rows["focalpo"]["stages"]:
        assert data["stages"][title]["outputs"].keys() == {"alpaca_eval.parquet", "arena_hard.parquet", "records.jsonl"}
        kinds = {needed.partition("/")[0] for needed in data["stages"][title]["inputs"].values()}
        assert kinds == {"benchmark", "generate"}


def test_a_finished_stage_says_the_scores_that_the_table_averages_over_seeds(sealed_report: Path) -> None:
    run, cells = TableRun.read(sealed_report), scores(sealed_report)
    for row in ("sft", "dpo", "focalpo"):
        lines = [reproduce.scores(Folder.at(folder)) for folder in run.seeds("base", row, "judge").values()]
        assert len(lines) == 2
        for column in ("ae2_lc", "ae2_wr", "arena_hard"):
            said = [float(re.search(rf"{column_of(column).title} (\S+?)(,|$)", line)[1]) for line in lines]
            assert sum(said) / 2 == pytest.approx(float(cells[row, column]["value"]), abs=0.06), "in tenths"
    assert reproduce.scores(Folder.at(next(iter(run.seeds("base", "dpo", "train").values())))) == ""


def test_the_warnings_of_all_stages_are_listed_once(sealed_report: Path, tmp_path: Path) -> None:
    assert "3 training seeds or fewer behind 3 of 3 rows" in (sealed_report / "report.html").read_text()
    stages = {
        "judge/a": {"facts": {"warnings": ["3 answers are empty"]}},
        "judge/b": {"facts": {"warnings": ["3 answers are empty", "<b>"]}},
    }
    assert warnings_of(stages) == ["3 answers are empty (judge/a and 1 more)", "<b> (judge/b)"]


def test_markdown_and_latex_show_the_same_as_the_page(sealed_report: Path) -> None:
    number = shown(sealed_report)
    html, markdown, latex = ((sealed_report / f"report.{name}").read_text() for name in ("html", "md", "tex"))
    assert f">{number}</button>" in html
    assert re.search(rf"\| FocalPO \|.* {number} \[", markdown) and f"${number}_{{" in latex
    for name in ("dynamics", "gradient", "length", "displacement", "margins_base"):
        assert f"figures/{name}.png" in markdown and f"figures/{name}.png" in latex and f'id="figure-{name}"' in html
        assert all((sealed_report / "figures" / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "svg"))
    assert "arena first-place gain" in markdown.lower() and "\\toprule" in latex and "\\bottomrule" in latex


def test_every_place_opens_with_the_same_finding(sealed_report: Path) -> None:
    """The page, before its warnings; the Markdown and LaTeX reports, the terminal, and what the README shows."""
    sentence = (sealed_report / "summary.md").read_text().splitlines()[0].strip("*")
    assert sentence.startswith("FocalPO ")
    page = (sealed_report / "report.html").read_text()
    marks = (f">{escape(sentence)}</p>", 'id="forest"', "<h2>Warnings", '<h2 id="table')
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert (sealed_report / "report.md").read_text().split("\n\n")[1] == f"**{sentence}**"
    assert (sealed_report / "table1.txt").read_text().split("\n\n")[1].split() == sentence.split()
    assert tex(sentence) in (sealed_report / "report.tex").read_text()


def test_figures_take_the_pages_colours_and_no_other_vanishes_in_the_dark(sealed_report: Path) -> None:
    """Black, white and grid greys are the style sheet's; what is left is the data's, and visible on both papers."""
    page = (sealed_report / "report.html").read_text()
    drawn = set(re.findall(r"#[0-9a-f]{6}\b", "".join(re.findall(r"<figure.*?</figure>", page, re.S)), re.I))
    assert drawn and not drawn & PAGE_COLOURS.keys()
    assert set(PAGE_COLOURS.values()) <= LIGHT.keys() & DARK.keys()
    for colour in drawn - {figures.ON_BARS}:
        assert contrast(colour, DARK["paper"]) >= 3 and contrast(colour, LIGHT["paper"]) >= 2, colour
    bars = [colour for _, colour in figures.GROUPS.values()]
    assert all(contrast(figures.ON_BARS, colour) >= 4.5 for colour in bars), "numbers on bars, on both papers"


def test_every_format_has_the_diagnostics_and_says_what_was_not_recorded(sealed_report: Path) -> None:
    """DPO's pairs have 15 tokens and entropies of 11 nats; FocalPO's are of an earlier commit."""
    page, markdown, latex = ((sealed_report / f"report.{end}").read_text() for end in ("html", "md", "tex"))
    lines = [line.split(" | ") for line in markdown.split("## Diagnostics of training")[1].splitlines()]
    dpo, focalpo = (next(line[1:] for line in lines if line[0] == f"| {label}") for label in ("DPO", "FocalPO"))
    assert dpo[1:3] == ["0.733", "0.733"] and dpo[6] == "-1.50" and "not recorded" not in " ".join(dpo)
    assert focalpo[1:3] == ["not recorded"] * 2 and focalpo[3] != "not recorded"
    for text, start, between in ((page, "<tr><td>DPO</td><td>", "</td><td>"), (latex, "DPO & ", " & ")):
        assert start + between.join(each.removesuffix(" |") for each in dpo) in text
    assert '<a href="#diagnostics">' in page and 'id="figure-calibration"' in page


def test_figures_of_the_same_numbers_are_the_same_bytes(sealed_report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "report" / sealed_report.name
    shutil.copytree(sealed_report.parent.parent, tmp_path / "runs")
    shutil.rmtree(folder)
    again = made(Folder(tmp_path / "runs", planned()))
    assert read_manifest(again)["outputs"] == read_manifest(sealed_report)["outputs"]


def test_one_changed_verdict_changes_every_place_that_shows_the_score(sealed_report: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(sealed_report.parent.parent, runs)
    shutil.rmtree(runs / "report")
    (stage,) = (s for s in in_order([planned()]) if s.title.startswith("judge/base-focalpo-s1-"))
    judge = Folder(runs, stage)
    verdicts = read_records(judge.path / "alpaca_eval.parquet", AlpacaVerdict)
    lost = [AlpacaVerdict(v.id, v.index, 1.0, v.reference_length, v.model_length) for v in verdicts]
    write_records(judge.path / "alpaca_eval.parquet", lost)
    judge.seal(1.5, read_manifest(judge.path)["facts"])
    report = made(Folder(runs, planned()))
    before, after = shown(sealed_report), shown(report)
    assert before != after
    (tmp_path / "README.md").write_text("<!-- table: docs/pocket/summary.md -->\n<!-- end of table -->\n")
    publish(report, tmp_path)
    pages = {
        "page": (report / "report.html").read_text(),
        "Markdown": (report / "report.md").read_text(),
        "LaTeX": (report / "report.tex").read_text(),
        "LaTeX table": (report / "table1.tex").read_text(),
        "terminal": (report / "table1.txt").read_text(),
        "README": (tmp_path / "README.md").read_text(),
        "why": why("focalpo/base/ae2_wr", newest_reports(runs)),
        "notebook": notebook_text("02_table1", report),
    }
    for name, text in pages.items():
        row = next(
            line for line in text.splitlines() if re.search(rf"FocalPO.*(?<![\d.]){re.escape(after)}(?!\d)", line)
        )
        assert not re.search(rf"(?<![\d.+-]){re.escape(before)}(?!\d)", row.partition("class=focus")[2] or row), name


def test_a_report_finds_its_inputs_after_runs_was_moved(sealed_report: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed_report.parent.parent, tmp_path / "moved")
    run = TableRun.read(tmp_path / "moved" / "report" / sealed_report.name)
    assert all(path.is_dir() and path.is_relative_to(tmp_path / "moved") for path in run.inputs.values())
    stages = chain(run.seeds("base", "dpo", "judge").values())
    titles = list(stages)
    for place, manifest in enumerate(stages.values()):
        assert all(needed in titles[:place] for needed in manifest["inputs"].values()), "inputs come first"


def test_why_prints_the_number_the_stages_and_the_commands(sealed_report: Path) -> None:
    text = why("focalpo/base/ae2_wr", newest_reports(sealed_report.parent.parent))
    assert text.startswith(f"FocalPO, Pocket base (off-policy pairs), AlpacaEval WR: {shown(sealed_report)} [")
    for kind in ("sft", "pairs", "reference", "train", "generate", "judge", "benchmark"):
        assert re.search(rf"^{kind}/\S+ +1\.5 s  commit ", text, re.M)
    assert text.count("judge/base-focalpo-s") == 2
    assert "recipes.reproduce table=pocket settings=base rows=dpo,focalpo seeds=2" in text


@pytest.mark.parametrize("cell", ["focalpo/base", "dqo/base/ae2_wr", "focalpo/base/tokens", "kto/base/ae2_lc"])
def test_why_refuses_an_unknown_cell(sealed_report: Path, cell: str) -> None:
    with pytest.raises(ValueError, match="no report has a number for .*ROW/SETTING/COLUMN"):
        why(cell, newest_reports(sealed_report.parent.parent))


def test_why_without_a_report_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no report yet: make one, as with make reproduce-table1"):
        why("focalpo/base/ae2_wr", newest_reports(tmp_path))


def test_several_sft_models_are_ordered_runs_of_one_row(tmp_path: Path) -> None:
    folder = sealed_stages(tmp_path, planned("noise", settings="base_0,base_40", rows="dpo,focalpo", seeds="2"))
    report = made(folder)
    run = TableRun.read(report)
    assert list(run.seeds("base_0", "dpo", "judge")) == ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]
    models = {json.loads((path / "stage.json").read_text())["inputs"]["model"] for path in
              run.seeds("base_0", "dpo", "train").values()}  # fmt: skip
    assert len(models) == 3
    assert scores(report)["focalpo", "ae2_wr"]["seeds"] == "6"
    assert (report / "figures" / "noise.png").is_file()
    assert Job.read(report).launch["command"][0] == "table=noise"
