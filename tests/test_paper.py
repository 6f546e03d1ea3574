"""The reproduction report: its numbers are the published ones, none is typed by hand, and it builds cleanly."""

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from focalpo.config.mistakes import Mistake
from focalpo.reporting.claims_shown import as_markdown_claims
from focalpo.reporting.paper_numbers import numbers_tex, typed_numbers
from focalpo.reporting.quoted import Unquotable, quote
from focalpo.reporting.tex import as_tex, complaints
from focalpo.stages.folder import file_hash, write_json
from recipes.paper import CLAIMS, NAME, compiled, main, pictures, sources_of, write_inputs
from recipes.publish import publish
from tests.published_tables import made_up, write_published

ROOT = Path(__file__).parent.parent
TEXTS = sorted((ROOT / "docs/paper").glob("*.tex"))
LAPTOP_ROWS = ["sft", "dpo", "focalpo", "gamma_0.025", "gamma_-0.05", "simpo", "ipo", "kto", "sft_on_chosen"]
LAPTOP_COLUMNS = ["ifeval_prompt", "ifeval_instruction", "ifeval_new_prompt", "ifeval_new_instruction"]
POCKET = ("base", "instruct"), ["sft", "ipo", "dpo", "focalpo"], ["ae2_lc", "ae2_wr", "arena_hard"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The paper's text and figures with made-up tables of the toy model: docs/ without what is published."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("build", "*.csv", "report.json"))
    write_published(tmp_path / "docs/pocket", *made_up(*POCKET))
    return tmp_path


def edit(file: Path, change: Callable[[dict], None]) -> None:
    """Change the line of FocalPO's AlpacaEval LC in the base setting."""
    lines = list(csv.DictReader(io.StringIO(file.read_text())))
    change(
        next(each for each in lines if (each["setting"], each["row"], each["column"]) == ("base", "focalpo", "ae2_lc"))
    )
    out = io.StringIO()
    writer = csv.DictWriter(out, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    file.write_text(out.getvalue())


def test_one_changed_score_changes_the_text_and_the_verdict(root: Path) -> None:
    ask = "\\val{pocket/focalpo/base/ae2_lc/difference} \\val{claim/surpasses_dpo/pocket}"
    before = numbers_tex({"x.tex": ask}, sources_of(root))
    assert "\\newnumber{claim/surpasses_dpo/pocket}{not supported} % docs/pocket/table1.csv\n" in before
    ahead = {"difference": "7.25", "difference_low": "6.5", "difference_high": "8", "p_holm": "0.001", "p_equal": "0.9"}
    edit(root / "docs/pocket/table1.csv", lambda line: line.update(ahead))
    after = numbers_tex({"x.tex": ask}, sources_of(root))
    number = "\\ensuremath{+}7.2 [\\ensuremath{+}6.5, \\ensuremath{+}8.0]"
    why = "make why CELL=focalpo/base/ae2_lc"
    assert (
        f"\\newnumber{{pocket/focalpo/base/ae2_lc/difference}}{{{number}}} % docs/pocket/table1.csv; {why}\n" in after
    )
    assert "{claim/surpasses_dpo/pocket}{inconclusive, " in after and number not in before
    assert "significantly ahead of DPO in 1 and behind in 0 of 6 scores; the largest difference is" in after
    edit(root / "docs/pocket/table1.csv", lambda line: line.update(difference="-7.25"))
    assert "{claim/surpasses_dpo/pocket}{not supported}" in numbers_tex({"x.tex": ask}, sources_of(root))


def test_a_published_file_that_was_edited_is_refused(root: Path) -> None:
    folder = root / "docs/pocket"
    hashes = {"table1.csv": file_hash(folder / "table1.csv")}
    write_json(folder / "report.json", {"stage": "report/pocket-0a", "commit": "abc", "sha256": hashes})
    cell = quote("pocket/focalpo/base/ae2_lc/value", sources_of(root))
    assert cell.source.endswith("make why CELL=focalpo/base/ae2_lc REPORT=runs/report/pocket-0a")
    edit(folder / "table1.csv", lambda line: line.update(value="99"))
    with pytest.raises(ValueError, match="table1.csv is not the file of report/pocket-0a; publish the report again"):
        sources_of(root)


def test_what_publish_writes_is_what_the_paper_reads(sealed_report: Path, root: Path) -> None:
    (root / "README.md").write_text("<!-- table: docs/pocket/summary.md -->\n<!-- end of table -->\n")
    publish(sealed_report, root)
    sources = sources_of(root)
    table = sources.tables["pocket"]
    assert table.report == f"report/{sealed_report.name}" and table.hours is not None and table.machine
    rows = [row for rows in table.results.rows.values() for row in rows]
    assert [row.label for row in rows] == ["SFT", "DPO", "FocalPO"] and len(table.pairs) == 4
    assert sources.verdicts["rarely_fixed"]["pocket"].source == "docs/pocket/pairs.csv"
    pairs = root / "docs/pocket/pairs.csv"
    pairs.write_text(pairs.read_text().replace("40", "41"))
    with pytest.raises(ValueError, match="pairs.csv is not the file of report/pocket-"):
        sources_of(root)


def test_what_is_published_in_this_checkout_is_readable_and_traced() -> None:
    sources = sources_of(ROOT)
    assert {"pocket", "gamma", "noise"} <= sources.tables.keys()
    lines = numbers_tex({file.name: file.read_text() for file in TEXTS}, sources).splitlines()
    numbers = [line for line in lines if line.startswith("\\newnumber")]
    assert len(numbers) > 80
    for line in numbers:
        source = line.rpartition(" % ")[2].partition(";")[0]
        assert source == "the loss" or (ROOT / source).exists(), line


def test_the_claims_of_the_readme_are_those_of_the_published_tables() -> None:
    sources = sources_of(ROOT)
    (shown,) = re.findall(CLAIMS.pattern.replace(").*?(", ")(.*?)("), (ROOT / "README.md").read_text(), re.S)
    assert shown[1].strip() == as_markdown_claims(sources.claims, sources.verdicts), "run: make claims"


def test_a_missing_table_leaves_its_numbers_out_and_a_wrong_key_is_refused(root: Path) -> None:
    sources = sources_of(root)
    text = "\\iftable{laptop}{\\val{laptop/focalpo/largest}}{not run} \\ifpairs{pocket}{\\val{pocket/settings}}{}"
    found = numbers_tex({"x.tex": text}, sources)
    assert "laptop/focalpo" not in found and "\\newtable{laptop}" not in found
    assert "\\newtable{pocket}\n" in found and "\\newpairs{pocket}\n" in found
    (root / "docs/pocket/pairs.csv").unlink()
    without = numbers_tex({"x.tex": "\\ifpairs{pocket}{\\val{pocket/pairs/dpo/base/fixed}}{}"}, sources_of(root))
    assert "pairs/dpo" not in without and "newpairs" not in without
    for key, said in {
        "laptop/rows": "laptop/rows names no number",  # nothing asks whether that table is there
        "pocket/focalpo/base/ae2_lx/value": "ae2_lx",
        "pocket/nobody/lowest": "pocket/nobody/lowest names no number",
        "theory/ratio/five": "five",
        "pocket": "too few or too many parts",
    }.items():
        with pytest.raises(ValueError, match=f"docs/paper/x.tex line 2: .*{said}"):
            numbers_tex({"x.tex": f"text\n\\val{{{key}}}"}, sources)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("theory/start/0", "0.693"),  # ln 2
        ("theory/ratio/1/0.5", "0.15"),  # 0.5 (1 - ln 2)
        ("theory/flip/1", "0.37"),  # 1/e
        ("theory/flip_nats/0.05/0.01", "-2000"),  # ln(e^-20 / (1 - e^-20)) / 0.01
        ("author/beta", "0.01"),
        ("author/exponent/Llama0-3-8b-v0.1-p-2-lr6e-7-e1/Llama0-3-8b-v0.1-dpo-lr5e-7-e1", "-5.665"),  # log2 .0131/.6647
        ("printed/instruct/focalpo/arena_hard", "34.6"),
        ("pocket/settings", "2"),
        ("pocket/rows", "4"),
        ("pocket/hours", "1.25"),
        ("pocket/commit", "abc"),
        ("pocket/focalpo/compared", "6"),
        ("pocket/focalpo/detectable", "2.0"),
        ("pocket/dpo/base/ae2_wr/interval", "20.0 [18.0, 22.0]"),
    ],
)
def test_quotes_by_hand(root: Path, key: str, text: str) -> None:
    assert quote(key, sources_of(root)).text == text
    with pytest.raises(Unquotable):
        quote(f"{key}/more/and/more/and/more", sources_of(root))


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("It rises by \\val{pocket/focalpo/largest} points \\citep{chen2024rankings}, see Table~\\ref{tab:1}.", True),
        ("\\includegraphics[width=.9\\linewidth]{../pocket/gradient.png} % 3 panels", True),
        ("\\begin{equation}\n1/2\n\\end{equation}", True),
        ("It rises by 3.2 points.", False),
        ("It rises by $3.2$ points.", False),
        ("The \\textbf{3} scores", False),
    ],
)
def test_a_number_that_is_typed_by_hand_is_found(line: str, clean: bool) -> None:
    assert (typed_numbers(line) == []) == clean


def test_no_result_is_typed_by_hand_and_the_build_refuses_one(root: Path) -> None:
    build = write_inputs(root)
    assert (build / "numbers.tex").is_file() and (build / "pairs_pocket.tex").is_file()
    text = root / "docs/paper/results.tex"
    text.write_text(text.read_text() + "FocalPO wins by 2 points.\n")
    lines = len(text.read_text().splitlines())
    with pytest.raises(ValueError, match=f"results.tex has a number .* by hand; .*line {lines}: FocalPO wins by 2"):
        write_inputs(root)


def test_every_figure_of_the_text_is_published_or_made_by_the_build() -> None:
    figures = [name for file in TEXTS for name in re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", file.read_text())]
    assert len(figures) >= 5
    made = {"build/differences.pdf"}
    assert not [name for name in figures if name not in made and not (ROOT / "docs/paper" / name).is_file()]


def test_text_becomes_latex() -> None:
    assert as_tex("-1.3 [-2.4, +0.2]") == ("\\ensuremath{-}1.3 [\\ensuremath{-}2.4, \\ensuremath{+}0.2]")
    assert as_tex("Llama-3, 50% & p^gamma (1 + gamma ln p)") == "Llama-3, 50\\% \\& $p^\\gamma (1 + \\gamma \\ln p)$"


def test_a_log_is_read_for_what_must_not_be_there() -> None:
    log = "\n".join(
        [
            "LaTeX Warning: Reference `tab:x' on page 1 undefined on input line 3.",
            "Package natbib Warning: Citation `who' on page 2 undefined on input line 9.",
            "Overfull \\hbox (20.2pt too wide) in paragraph at lines 61--62",
            "Underfull \\hbox (badness 2111) in paragraph at lines 10--10",
            "LaTeX Warning: Label `a' multiply defined.",
            "Output written on report.pdf (9 pages).",
        ]
    )
    assert [each.split()[1] for each in complaints(log)] == ["Warning:", "natbib", "\\hbox", "Warning:"]


def test_an_unknown_word_is_refused_in_one_line() -> None:
    with pytest.raises(Mistake, match="claim: run python -m recipes.paper"):
        main(["claim"])
    with pytest.raises(Mistake, match="claims paper: run python -m recipes.paper"):
        main(["claims", "paper"])


def looked_at(pdf: Path) -> int:
    """How many pages there are; each has ink, and none of it in the outer centimetre, where printers cut."""
    pages = pictures(pdf)
    for page in pages:
        grey = imread(page)[..., :3].mean(-1)
        ink = np.argwhere(grey < 0.5)
        assert len(ink) > 200, f"{page} is empty"
        edge = round(80 / 2.54)  # a centimetre at 80 dots per inch
        assert (ink.min(0) > edge).all() and (ink.max(0) < np.array(grey.shape) - edge).all(), f"{page} is cut"
    return len(pages)


@pytest.mark.latex
def test_the_paper_builds_from_what_is_published(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("build"))
    build = write_inputs(tmp_path)
    assert 6 <= looked_at(compiled(tmp_path / "docs/paper", NAME, build)) <= 12


@pytest.mark.latex
def test_the_paper_fills_itself_when_tables_come_and_shrinks_when_they_go(root: Path) -> None:
    for name in ("gamma", "noise"):
        shutil.copytree(ROOT / "docs" / name, root / "docs" / name, dirs_exist_ok=True)
    write_published(root / "docs/laptop", *made_up(["laptop"], LAPTOP_ROWS, LAPTOP_COLUMNS))
    full = compiled(root / "docs/paper", NAME, write_inputs(root))
    assert 6 <= looked_at(full) <= 10
    for name in ("pocket", "gamma", "noise", "laptop"):
        (root / "docs" / name / "table1.csv").unlink()
    assert 4 <= looked_at(compiled(root / "docs/paper", NAME, write_inputs(root))) <= 10


@pytest.mark.latex
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\\ref{nothing}", "is not clean: .*nothing.*undefined"),
        ("\\hbox to 50cm{x}", "is not clean: Overfull"),
        ("\\nonsense", "failed on .*Undefined control sequence"),
    ],
)
def test_what_latex_complains_of_fails_the_build(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.tex").write_text(f"\\documentclass{{article}}\\begin{{document}}a {text}\\end{{document}}\n")
    with pytest.raises(ValueError, match=said):
        compiled(tmp_path, "x", tmp_path)


@pytest.mark.latex
def test_the_report_of_a_table_compiles(sealed_report: Path, tmp_path: Path) -> None:
    assert looked_at(compiled(sealed_report, "report", tmp_path)) >= 3
