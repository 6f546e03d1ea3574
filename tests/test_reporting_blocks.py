"""The table and its blocks: verdicts, corrections and warnings, in every format from the same cells."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.protocol import EVAL
from focalpo.reporting.blocks import blocks, equivalences, few_seeds, table_notes
from focalpo.reporting.cells import Cell, Results, RowResult, holm_corrected
from focalpo.reporting.content import GRADIENT
from focalpo.reporting.document import as_summary
from focalpo.reporting.judged import Judged, judged_by, other_models
from focalpo.reporting.tables import as_csv, as_latex, as_markdown
from focalpo.reporting.terminal import as_terminal
from focalpo.reporting.tex import tex
from focalpo.reporting.verdicts import Rule, protocols_of, read_rule, verdict, with_verdicts
from focalpo.scoring.differences import Difference, holm
from focalpo.stages.folder import Folder, Stage

RULE = Rule(1.0, 2.0, 6.0, 3.0, protocols={"ae2_wr": "official", "arena_hard": "official"}, anchors={})


def cell(p: float | None = None, value: float = 14.0, se: float = 1.0) -> Cell:
    found = Cell(value, value - 2, value + 2, seeds=3, prompts=805, seed_sd=0.5, se=se, library_se=0.9)
    return found if p is None else replace(found, difference=Difference(-1.5, -3.0, 0.1, p, 0.8, 804.0), detectable=2.5)


def row(name: str, paper: dict | None = None, **cells: Cell) -> RowResult:
    return RowResult(name, name.upper(), cells, {}, paper or {})


def results_of(*rows: RowResult, warnings: tuple[str, ...] = ()) -> Results:
    return Results("Table", {"base": "Base"}, {"base": list(rows)}, "dpo", "DPO", (), warnings)


@pytest.mark.parametrize(
    ("ours", "error", "paper", "word"),
    [
        (14.1, 1.0, 15.1, "reproduced"),  # at 1.0, and 2 * sqrt(2) * 1 = 2.8 resolves
        (14.0, 1.0, 15.1, "within noise"),
        (14.0, 1.0, 16.83, "differs"),  # 2.83 > 2.828
        (14.0, 3.0, 14.0, "within noise"),  # equal, but 8.5 resolves nothing
        (14.0, 0.1, 14.9, "reproduced"),  # beyond our noise of .28, yet as near as one model judged twice
    ],
)
def test_verdicts_by_hand(ours: float, error: float, paper: float, word: str) -> None:
    assert verdict(ours, error, paper, RULE) == word


def test_the_block_of_equivalence_has_the_p_value_of_a_difference_as_large_as_the_margin() -> None:
    rows = [row("dpo", ae2_wr=cell()), row("simpo", ae2_wr=replace(cell(0.4), p_equal=0.012))]
    found = equivalences(rows, replace(results_of(*rows), margin=3.0))
    assert (found.title, [list(line) for line in found.body]) == ("within ±3 points, p", [["SIMPO", ".012"]])


def test_only_cells_judged_under_the_papers_protocol_get_a_verdict() -> None:
    paper = {"ae2_wr": 14.2, "arena_hard": 14.2, "ifeval_prompt": 14.2}
    judged = row("sft", paper, ae2_wr=cell(), ae2_lc=cell(), arena_hard=cell(), ifeval_prompt=cell())
    protocols = {"alpaca_eval": "official", "arena_hard": "local", "ifeval": "official"}
    found = with_verdicts(judged, protocols, RULE)
    assert {name: c.verdict for name, c in found.cells.items() if c.verdict} == {"ae2_wr": "reproduced"}
    assert found.paper == {"ae2_wr": 14.2}, "no other number of the paper stands beside ours"
    assert with_verdicts(row("sft", paper), protocols, RULE).paper == {}, "nor beside nothing"


def test_columns_judged_under_different_protocols_have_no_protocol(tmp_path: Path) -> None:
    one, two = judged(tmp_path, "a", "alpaca_eval_2"), judged(tmp_path, "b", "alpaca_eval_2_local")
    assert protocols_of([one]) == {"alpaca_eval": "alpaca_eval_2", "arena_hard": "arena_hard_v0_1"}
    assert protocols_of([one, two]) == {"arena_hard": "arena_hard_v0_1"} and protocols_of([]) == {}
    other = judged(tmp_path, "c", "alpaca_eval_2", served=["gpt-4o"])
    assert "alpaca_eval_2" not in protocols_of([other]).values(), "another model answered under the judge's name"


def judged(
    runs: Path, name: str, alpaca: str, served: Sequence[str] = ("gpt-4-1106-preview",), **sentinel: float
) -> Path:
    """A sealed judge stage of both benchmarks; `sentinel` is what AlpacaEval's drift was."""
    protocols = {"alpaca_eval": alpaca, "arena_hard": "arena_hard_v0_1"}
    settings = {"protocols": {k: {"protocol": v, "hash": f"hash of {v}"} for k, v in protocols.items()}, "judge": "api"}
    asked = {k: {"title": f"{k} title", "model": "gpt-4-1106-preview", "baseline": "gpt4"} for k in protocols}
    stage = Folder(runs, Stage("judge", name, settings | {"name": name}))
    drift = {"alpaca_eval": sentinel} if sentinel else {}
    with stage.being_made():
        stage.seal(0.0, {"judged_by": asked, "served": list(served), "sentinel": drift})
    return stage.path


def test_who_judged_is_said_once_with_the_noise_of_repeated_verdicts(tmp_path: Path) -> None:
    """Of 10 and 10 sentinel verdicts given again, 1 and 3 changed; results moved by .1 and .3: 20% and 20 points."""
    drifts = ((True, 0.0, 0.0), (False, 0.1, 0.1), (False, 0.3, 0.3))
    folders = [
        judged(tmp_path, str(n), "local", first=first, verdicts=10, changed=changed, moved=moved)
        for n, (first, changed, moved) in enumerate(drifts)
    ]
    alpaca, arena = judged_by(folders)
    assert str(arena) == (
        "arena_hard title: judged by gpt-4-1106-preview at api, against gpt4; protocol arena_hard_v0_1, "
        "hash hash of arena_hard_v0_1."
    )
    assert str(alpaca).endswith(
        "Repeat noise: of 20 sentinel verdicts given again, 20.0% have another winner; they moved 20.0 points on "
        "average."
    )
    (renamed, _) = judged_by([judged(tmp_path, "r", "local", served=["gpt-4o"])])
    assert renamed.by == "gpt-4-1106-preview at api, which calls itself gpt-4o"
    facts = {"judged_by": {"alpaca_eval": {"model": "gpt-4.1"}}}
    served = ["gpt-4.1", "gpt-4.1-2025-04-14", "gpt-4.1-mini-2025-04-14", "gpt-4.10"]
    assert other_models(facts | {"served": served}) == served[2:], "its version of a day was asked for"


JUDGE = Judged("alpaca_eval", "AlpacaEval 2.0, local", "a_local", "0123", "a-judge", "http://a_b", "gpt4", ())


def test_every_format_says_who_judged_above_the_table() -> None:
    table = replace(results_of(row("sft", ae2_wr=cell())), judges={"base": (JUDGE,)})
    line = "AlpacaEval 2.0, local: judged by a-judge at http://a_b, against gpt4; protocol a_local, hash 0123."
    texts = [as_markdown(table), as_summary(table), as_terminal(table, "files").replace("\n", " "), as_latex(table)]
    for text, said, number in zip(texts, [line, line, line, tex(line)], ["14.0 ["] + ["14.0"] * 3, strict=True):
        assert said in text and text.index(said) < text.index(number)
    (written,) = csv.DictReader(io.StringIO(as_csv(table)))
    assert [written[name] for name in ("judge", "protocol", "protocol_hash", "baseline")] == [
        "a-judge at http://a_b", "a_local", "0123", "gpt4",
    ]  # fmt: skip


def test_every_format_shows_missing_verdicts_and_the_worst_that_they_can_hide() -> None:
    table = results_of(row("sft", ae2_wr=replace(cell(), missing=2, worst=(13.9, 14.2))))
    for text in (as_markdown(table), as_summary(table), as_terminal(table, "files"), as_latex(table)):
        assert "2 missing: 13.9 to 14.2" in " ".join(text.split())
    (written,) = csv.DictReader(io.StringIO(as_csv(table)))
    assert [written[name] for name in ("missing", "worst_low", "worst_high")] == ["2", "13.9", "14.2"]


def test_a_table_shows_whose_answers_repeat_themselves() -> None:
    looping = replace(row("dpo", ae2_wr=cell()), extras={"tokens": 113.0, "repetitive": 48.3})
    fine = replace(row("sft", ae2_wr=cell()), extras={"tokens": 66.0, "repetitive": 1.2})
    table = results_of(fine, looping)
    for text in (as_summary(table), as_terminal(table, "files")):
        assert "Answers that repeat themselves, scored as they stand: DPO: 48%." in " ".join(text.split())
    assert "repetitive %" in as_markdown(table) and "| 48.3 |" in as_markdown(table)
    assert [line["value"] for line in csv.DictReader(io.StringIO(as_csv(table))) if line["column"] == "repetitive"] == [
        "1.2", "48.3",
    ]  # fmt: skip
    never = results_of(replace(fine, extras={"tokens": 7.0, "repetitive": 0.0}))
    assert "repetitive" not in as_markdown(never) + as_csv(never), "short answers cannot"


def test_a_table_says_why_it_has_no_score_at_equal_style() -> None:
    notes = [" ".join(table_notes(results_of(row("dpo", **cells)), "files")) for cells in (
        {"hard_prompt": cell()}, {"hard_prompt": cell(), "hard_prompt_equal_style": cell()}, {"ae2_wr": cell()}
    )]  # fmt: skip
    assert ["No score at equal style in" in text for text in notes] == [True, False, False]


def test_a_table_with_three_seeds_or_fewer_warns() -> None:
    few, many = cell(0.1), replace(cell(0.1), seeds=4)
    (warning,) = few_seeds(results_of(row("dpo", ae2_wr=many), row("sft", ae2_wr=few), row("ipo", ae2_wr=many)))
    assert warning.startswith("3 training seeds or fewer behind 1 of 3 rows (SFT)")
    assert few_seeds(results_of(row("dpo", ae2_wr=many), row("ipo", ae2_wr=many))) == ()
    assert few_seeds(results_of(row("dpo", ae2_wr=cell()))) == (), "nothing is compared"
    for order in ((few, many), (many, few)):
        rows = {f"{n}": [row("dpo", ae2_wr=many), row("sft", ae2_wr=each)] for n, each in enumerate(order)}
        table = replace(results_of(), rows=rows)
        assert "behind 1 of 2 rows (SFT)" in few_seeds(table)[0], "seeds of one setting are missing"


def test_the_rule_is_in_eval_and_names_every_column(tmp_path: Path) -> None:
    rule = read_rule(EVAL / "verdicts.yaml")
    assert (rule.agree, rule.errors, rule.resolve, rule.equivalent) == (1.0, 1.96, 6.0, 3.0)
    assert {(EVAL / f"{name}.yaml").is_file() for name in rule.protocols.values()} == {True}
    (tmp_path / "rule.yaml").write_text("agree: 1\n")
    with pytest.raises(ValueError, match=r"must have exactly \['agree', 'anchors', 'equivalent', 'errors', 'prot"):
        read_rule(tmp_path / "rule.yaml")


def test_p_values_are_corrected_over_the_whole_table() -> None:
    """Four differences in two settings and two columns: .001 * 4, .02 * 3, .03 * 2, .5 * 1."""
    table = {
        "base": [row("dpo", ae2_wr=cell()), row("sft", ae2_wr=cell(0.02), ae2_lc=cell(0.5))],
        "instruct": [row("dpo", ae2_wr=cell()), row("sft", ae2_wr=cell(0.001), ae2_lc=cell(0.03))],
    }
    found = holm_corrected(table)
    (base, instruct) = (found[setting][1].cells for setting in found)
    corrected = [instruct["ae2_wr"], base["ae2_wr"], instruct["ae2_lc"], base["ae2_lc"]]
    wanted = [c.difference.detectable(4) for c in corrected]
    assert [c.detectable for c in corrected] == wanted and wanted[0] > corrected[0].difference.detectable(1)
    assert [c.p_holm for c in corrected] == pytest.approx(holm([0.001, 0.02, 0.03, 0.5])) == [0.004, 0.06, 0.06, 0.5]
    assert math.isnan(found["base"][0].cells["ae2_wr"].p_holm)


def test_every_format_shows_differences_certainty_and_verdicts() -> None:
    compared = replace(cell(0.01), p_holm=0.04, verdict="within noise")
    table = results_of(row("dpo", ae2_wr=cell()), row("sft", {"ae2_wr": 15.5}, ae2_wr=compared))
    expected = ["-1.5 [-3.0, +0.1] p=.040", "14.0, paper 15.5: within noise"]
    for write in (as_markdown, as_latex):
        text = write(table)
        assert all(words in text for words in expected) and "uncertainty (points)" in text
    (line,) = (
        found for found in csv.DictReader(io.StringIO(as_csv(table))) if found["row"] == "sft" and found["se"] != "-"
    )
    names = ("se", "library_se", "seed_sd", "detectable", "p_holm", "paper", "verdict")
    assert [line[name] for name in names] == ["1.0", "0.9", "0.5", "2.5", "0.04", "15.5", "within noise"]
    _, certainty, _ = blocks(table.rows["base"], table)
    assert certainty.body[0] == ["DPO", "1.0", "0.9", "0.5", "-"]


def test_rows_that_did_not_run_are_dashes_and_a_table_of_them_has_no_blocks() -> None:
    table = results_of(row("dpo"), row("sft"))
    assert blocks(table.rows["base"], table) == []
    assert {found["value"] for found in csv.DictReader(io.StringIO(as_csv(table)))} == {"-"}


def test_the_notes_explain_why_a_table_has_no_verdict() -> None:
    other = results_of(row("sft", ae2_wr=cell()))
    assert "none was judged under the paper's protocol" in table_notes(other, "files")[-1]
    judged = results_of(row("sft", {"ae2_wr": 15.5}, ae2_wr=replace(cell(), verdict="differs")))
    assert not any("No cell has a verdict" in note for note in table_notes(judged, "files"))


def test_warnings_come_before_the_numbers_in_every_text_format() -> None:
    table = results_of(row("sft", ae2_wr=cell()), warnings=("some answers are empty (generate/x)",))
    shown = "WARNING: some answers are empty (generate/x)"
    assert as_terminal(table, "pocket").split("\n\n")[2] == as_markdown(table).split("\n\n")[1] == shown
    assert as_latex(table).splitlines()[1] == f"% {shown}"


@pytest.mark.parametrize(
    ("sign", "escaped"),
    [
        ("&", r"\&"),
        ("%", r"\%"),
        ("#", r"\#"),
        ("_", r"\_"),
        ("$", r"\$"),
        ("{", r"\{"),
        ("}", r"\}"),
        ("^", r"\textasciicircum{}"),
        ("~", r"\textasciitilde{}"),
        ("\\", r"\textbackslash{}"),
        ("<", "$<$"),
        (">", "$>$"),
        ("|", "$|$"),
    ],
)
def test_special_characters_of_latex_are_escaped_once(sign: str, escaped: str) -> None:
    assert tex(sign) == escaped
    assert tex(f"a {sign}{sign} b") == f"a {escaped}{escaped} b"


def test_a_caption_with_a_power_is_escaped_in_latex() -> None:
    assert r"p = e\textasciicircum{}(-1/gamma)" in tex(GRADIENT[2])


def test_many_settings_stand_one_below_the_other_in_latex() -> None:
    cell = Cell(30.0, 28.0, 32.0, 3, 400, 0.5)
    rows = {name: [RowResult("dpo", "DPO", {"ae2_wr": cell}, {}, {})] for name in "abc"}
    text = as_latex(Results("T", {name: f"Set {name}" for name in "abc"}, rows, "dpo", "DPO", ()))
    table = text.partition("\\end{tabular}")[0]
    assert "\\begin{tabular}{llr}" in table and "multicolumn" not in table
    assert [line for line in table.splitlines() if "30.0" in line] == [
        f"Set {name} & DPO & $30.0_{{\\pm 2.0}}$ \\\\" for name in "abc"
    ]
