"""The table and its blocks: verdicts, corrections and warnings, in every format from the same cells."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focalpo.judging.protocol import EVAL
from focalpo.reporting.blocks import blocks, equivalences, table_notes
from focalpo.reporting.cells import Cell, Results, RowResult, holm_corrected
from focalpo.reporting.content import GRADIENT
from focalpo.reporting.overlaps import training_overlaps
from focalpo.reporting.styled import with_styled
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.tables import as_csv, as_latex, as_markdown, tex
from focalpo.reporting.terminal import as_terminal
from focalpo.reporting.verdicts import Rule, protocols_of, read_rule, verdict, with_verdicts
from focalpo.scoring import stats
from focalpo.scoring.differences import Difference, holm
from focalpo.scoring.stats import Remembered, win_rate
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.records import ArenaGame, Completion, Pair, Question, write_records

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


def test_columns_judged_under_different_protocols_have_no_protocol(tmp_path: Path) -> None:
    def judged(name: str, alpaca: str) -> Path:
        protocols = {"alpaca_eval": {"protocol": alpaca}, "arena_hard": {"protocol": "arena_hard_v0_1"}}
        stage = Folder(tmp_path, Stage("judge", name, {"protocols": protocols}))
        with stage.being_made():
            stage.seal(0.0)
        return stage.path

    one, two = judged("a", "alpaca_eval_2"), judged("b", "alpaca_eval_2_local")
    assert protocols_of([one]) == {"alpaca_eval": "alpaca_eval_2", "arena_hard": "arena_hard_v0_1"}
    assert protocols_of([one, two]) == {"arena_hard": "arena_hard_v0_1"} and protocols_of([]) == {}


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
    assert "there is none at this scale" in table_notes(results_of(row("sft", ae2_wr=cell())), "files")[-1]
    other = results_of(row("sft", {"ae2_wr": 15.5}, ae2_wr=cell()))
    assert "no cell was judged under the paper's protocol" in table_notes(other, "files")[-1]
    judged = results_of(row("sft", {"ae2_wr": 15.5}, ae2_wr=replace(cell(), verdict="differs")))
    assert not any("No cell has a verdict" in note for note in table_notes(judged, "files"))


def test_warnings_come_first_in_every_text_format() -> None:
    table = results_of(row("sft", ae2_wr=cell()), warnings=("some answers are empty (generate/x)",))
    shown = "WARNING: some answers are empty (generate/x)"
    assert as_terminal(table, "pocket").split("\n\n")[1] == as_markdown(table).split("\n\n")[1] == shown
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


def sealed(runs: Path, kind: str, name: str, facts: dict, inputs: dict | None = None, **files: list) -> Folder:
    stage = Folder(runs, Stage(kind, name, {"n": name}, {k: folder.stage for k, folder in (inputs or {}).items()}))
    with stage.being_made() as job:
        for file, records in files.items():
            write_records(job.path / f"{file}.parquet", records)
    stage.seal(0.0, facts)
    return stage


def test_overlaps_compare_all_pairs_once_with_the_benchmarks(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "sort: b a"}]
    pairs = sealed(tmp_path, "pairs", "data", {}, train=[Pair("p1", prompt, "a b", "b a")])
    benchmark = sealed(tmp_path, "benchmark", "alpaca_eval", {}, questions=[Question("q1", prompt, "a b")])
    inputs = {"base/dpo/1/pairs": pairs.path, "base/dpo/2/pairs": pairs.path}
    run = TableRun(tmp_path, {}, (), inputs | {"benchmark/base/alpaca_eval": benchmark.path})
    (found,) = training_overlaps(run).items()
    assert found[0] == f"{pairs.path.name} against {benchmark.path.name}" and found[1].exact == [("p1", "q1")]


@pytest.mark.parametrize(("source", "shared"), [("own", 0), ("google/IFEval", 1)])
def test_the_wording_that_prompts_of_ours_share_with_training_prompts_is_no_overlap(
    tmp_path: Path, source: str, shared: int
) -> None:
    wording = " ".join(f"word{place}" for place in range(13))
    asked = [[{"role": "user", "content": f"{topic} {wording}"}] for topic in ("tea", "chess")]
    pairs = sealed(tmp_path, "pairs", "data", {}, train=[Pair("p", asked[0], "a", "b")])
    benchmark = sealed(tmp_path, "benchmark", "ifeval", {"source": source}, questions=[Question("q", asked[1], "")])
    inputs = {"base/dpo/1/pairs": pairs.path, "benchmark/base/ifeval": benchmark.path}
    (found,) = training_overlaps(TableRun(tmp_path, {}, (), inputs)).values()
    assert len(found.gram) == shared


def test_only_hard_prompts_are_scored_with_style_control(tmp_path: Path) -> None:
    """Answers as long as the baseline's: the plain score of the hard prompts, (3 + .5 + 1) / (3 + 1 + 1 + 1)."""
    prompt = [{"role": "user", "content": "ask"}]
    names = ["hard_prompt/1", "hard_prompt/2", "creative_writing/3"]
    benchmark = sealed(tmp_path, "benchmark", "arena_hard", {}, questions=[Question(n, prompt, "four") for n in names])
    answers = [Completion(name, prompt, "ours", 1, True) for name in names]
    generate = sealed(tmp_path, "generate", "dpo-s1", {}, arena_hard=answers)
    results = {"hard_prompt/1": [(1.0, 3), (0.5, 1)], "hard_prompt/2": [(1.0, 1), (0.0, 1)]}
    results["creative_writing/3"] = [(0.0, 3), (0.0, 3)]
    games = [ArenaGame(name, g + 1, "", *results[name][g]) for name in names for g in (0, 1)]
    judge = sealed(tmp_path, "judge", "dpo-s1", {}, arena_hard=games)
    inputs = {"base/dpo/1/judge": judge.path, "base/dpo/1/generate": generate.path}
    rows = {"dpo": {"label": "DPO"}, "sft": {"label": "SFT"}}
    run = TableRun(tmp_path, {"rows": rows}, (), inputs | {"benchmark/base/arena_hard": benchmark.path})
    dpo, sft = with_styled(results_of(row("dpo"), row("sft")), run, "base").rows["base"]
    assert dpo.extras == pytest.approx({"arena_styled": 100 * 4.5 / 6}) and sft.extras == {}


def test_a_remembered_metric_resamples_once_and_equals_the_metric() -> None:
    calls = []

    class Counted:
        seeds, prompts = 1, 50

        def scores(self, weights: np.ndarray) -> np.ndarray:
            calls.append(len(weights))
            return metric.scores(weights)

    metric = win_rate(np.random.default_rng(0).uniform(1, 2, (1, 50)))
    remembered = Remembered(Counted())
    assert stats.interval(remembered) == stats.interval(metric)
    assert stats.bootstrap_error(remembered) == stats.bootstrap_error(metric)
    assert stats.value(remembered) == stats.value(metric)
    assert calls.count(stats.ROUNDS) == 1


def test_our_error_matches_alpaca_evals_for_one_run_and_arena_hards_is_too_small() -> None:
    """Two equal strong games per prompt count as six battles with the chance of one prompt: sqrt(6) too small."""
    draw = np.random.default_rng(1)
    preference = draw.uniform(1, 2, 400)
    assert stats.bootstrap_error(win_rate(preference[None])) == pytest.approx(
        stats.standard_error(preference), rel=0.03
    )
    games = np.repeat(draw.integers(0, 2, (400, 1)).astype(float), 2, axis=1)
    ours = stats.bootstrap_error(stats.arena_score(games[None], np.full((1, 400, 2), 3.0)))
    assert ours / stats.battle_error(games, np.full((400, 2), 3.0)) == pytest.approx(math.sqrt(6), rel=0.03)
