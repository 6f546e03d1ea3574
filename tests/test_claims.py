"""The claims of the abstract: every sentence is covered, and each rule gives the verdict that a hand would."""

from pathlib import Path

import numpy as np
import pytest

from focalpo.config.compose import compose_table
from focalpo.judging.protocol import EVAL
from focalpo.planning.table import compose_rows, only_row
from focalpo.reporting.claim_verdict import OPEN, REFUTED, SUPPORTED, UNTESTED
from focalpo.reporting.claims import read_claims, verdicts_of
from focalpo.reporting.claims_about_pairs import ended_right, fixed_rarely, margins_of_right
from focalpo.reporting.claims_about_scores import ahead, ahead_of_all, ahead_with_one_gamma
from focalpo.reporting.claims_about_weights import absolute_weight, dpo_weight, relative_weight
from focalpo.reporting.claims_shown import as_markdown_claims, as_terminal_claims
from focalpo.reporting.pair_groups import _measured, as_pairs_csv, pair_groups, read_pairs_csv
from focalpo.reporting.table_run import TableRun
from focalpo.stages.rankings import Change
from tests.published_tables import cell, groups, published

CLAIMS = read_claims(EVAL / "claims.yaml")


def test_every_sentence_of_the_abstract_is_a_claim_or_background() -> None:
    assert list(CLAIMS.sentences) == [1, 2, 3, 4, 5, 6, 7]
    assert [number for number, sentence in CLAIMS.sentences.items() if not sentence["claims"]] == [1]
    assert all(claim.needs and claim.says for claim in CLAIMS.claims.values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rule: ahead\n", "rule: forward\n", "claims.surpasses_dpo has the rule 'forward'"),
        ("claims: [down_weighs]}", "claims: [up_weighs]}", "differ in up_weighs"),
        ("subject: focalpo\n", "", "exactly the keys"),
        ("    needs: scores of all methods", "    need: scores of all methods", "claims.surpasses_variants must have"),
    ],
)
def test_a_damaged_file_of_claims_is_refused_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (EVAL / "claims.yaml").read_text()
    assert old in text
    (tmp_path / "claims.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=said) as error:
        read_claims(tmp_path / "claims.yaml")
    assert "\n" not in str(error.value)


def test_claims_about_the_loss_by_hand() -> None:
    """gamma 0.05, p 0.1: 0.1^0.05 (1 - 0.05 * 2.302585) = 0.891251 * 0.884871 = 0.788642, times DPO's 0.9."""
    assert dpo_weight().word == SUPPORTED
    found = relative_weight(0.05)
    assert found.word == SUPPORTED and "0.79 at p = 0.1, 0.93 at 0.5, 0.99 at 0.9" in found.why
    assert absolute_weight(0.05).word == REFUTED and "0.71 at p = 0.1 and 0.10 at 0.9" in absolute_weight(0.05).why
    # p^1 (1-p) (1 + ln p): 0.1 * 0.9 * -1.3026 < 0 < 0.9 * 0.1 * 0.8946
    assert absolute_weight(1.0).word == SUPPORTED
    # A factor below 1 everywhere and lowest at high p is not what is claimed.
    assert relative_weight(-0.05).word == REFUTED


UP, DOWN, SAME, WIDE = cell(5, p=0.01), cell(-5, p=0.01), cell(0.2, equal=0.01), cell(2, half=4)


@pytest.mark.parametrize(
    ("base", "instruct", "word"),
    [
        ([UP, WIDE], [UP, SAME], SUPPORTED),
        ([UP, UP], [SAME, SAME], OPEN),  # not in every setting
        ([UP, UP], [UP, DOWN], OPEN),  # ahead and behind
        ([DOWN, WIDE], [WIDE, WIDE], REFUTED),
        ([SAME, SAME], [SAME, SAME], REFUTED),  # shown to be as good as equal
        ([SAME, WIDE], [SAME, SAME], OPEN),  # one score could not have told
    ],
)
def test_ahead_of_dpo(base: list, instruct: list, word: str) -> None:
    def table(row: str, **others: dict) -> dict:
        cells = {
            name: dict(zip(("ae2_lc", "ae2_wr"), found, strict=True))
            for name, found in (("base", base), ("instruct", instruct))
        }
        return {name: {row: each, **others} for name, each in cells.items()}

    assert ahead(published(table("focalpo")), "focalpo").word == word
    # Another gamma counts as well as the fixed one.
    behind = {"ae2_lc": DOWN}
    assert ahead_with_one_gamma(published(table("focalpo", **{"gamma_1": behind})), "focalpo").word == word
    found = ahead_with_one_gamma(published(table("gamma_1", focalpo=behind)), "focalpo")
    assert found.word == (word if word in (SUPPORTED, REFUTED) else OPEN if UP in base else REFUTED)


def test_one_setting_cannot_show_that_one_gamma_is_enough() -> None:
    found = ahead_with_one_gamma(published({"base": {"focalpo": {"ae2_lc": UP}}}), "focalpo")
    assert found.short == "inconclusive" and found.why.endswith("one setting only")
    assert ahead(published({"base": {"focalpo": {"ae2_lc": UP}}}), "focalpo").word == SUPPORTED


def test_a_claim_about_all_settings_is_open_where_one_is_not_measured() -> None:
    """A row that failed there, or whose pairs have no number with one seed: what the others show is not all."""
    for found, word in ((UP, OPEN), (SAME, OPEN), (DOWN, REFUTED)):
        verdict = ahead(published({"base": {"focalpo": {"ae2_lc": found}}, "instruct": {"focalpo": {}}}), "focalpo")
        assert verdict.word == word and "; not measured: The instruct" in verdict.why
    pairs = [groups("base", "dpo", seed, 20 + seed, 3.0) for seed in range(4)]
    pairs += [groups("instruct", "dpo", seed, fixed, 3.0) for seed, fixed in enumerate((90, float("nan")))]
    found = fixed_rarely(published({name: {"dpo": {}} for name in ("base", "instruct")}, pairs), "dpo", 50.0)
    assert found.word == OPEN and "; not measured: The instruct; asked for" in found.why
    pairs = [groups("base", row, s, 20, margin + s) for s in (1, 2) for row, margin in (("dpo", 0), ("new", 1))]
    both = published({name: {"dpo": {}, "new": {}} for name in ("base", "instruct")}, pairs)
    wider = margins_of_right(both, "new", "dpo")
    assert wider.word == OPEN and wider.why.endswith("nats; not measured: The instruct")


def test_an_inconclusive_verdict_has_what_would_have_shown() -> None:
    found = ahead(published({"base": {"focalpo": {"ae2_lc": WIDE, "ae2_wr": cell(1, half=3)}}}), "focalpo")
    assert found.short == "inconclusive, 8.0 points would have shown"
    assert "largest difference is +2.0 [-2.0, +6.0] (The base, AlpacaEval LC)" in found.why
    assert "within ±3 points in 0 of 2" in found.why


def test_a_table_without_the_row_is_not_tested_and_capability_is_not_counted() -> None:
    assert ahead(published({"base": {"dpo": {"ae2_lc": cell()}}}), "focalpo").word == UNTESTED
    only_questions = published({"base": {"focalpo": {"plain_questions": cell(-9, p=0.001)}}})
    assert ahead(only_questions, "focalpo").word == UNTESTED


@pytest.mark.parametrize(
    ("others", "word"),
    [([10.0, 15.0], SUPPORTED), ([10.0, 17.0], OPEN), ([10.0, 25.0], OPEN), ([19.0, 25.0], REFUTED)],
)
def test_ahead_of_the_variants_by_intervals(others: list[float], word: str) -> None:
    """FocalPO is 20 ±2: above 15 ±2, not apart from 17 ±2 or 19 ±2, below 25 ±2; 10 ±2 is below it."""
    rows = {"focalpo": {"ae2_lc": cell()}, "control": {"ae2_lc": cell(value=90.0)}}
    rows |= {name: {"ae2_lc": cell(value=value)} for name, value in zip(("ipo", "kto"), others, strict=True)}
    found = ahead_of_all(published({"base": rows}), "focalpo", ["ipo", "kto", "cpo"])
    assert found.word == word and found.detectable == 4.0
    assert f"is {1 + sum(value > 20 for value in others)} of 3" in found.why


@pytest.mark.parametrize(("values", "word"), [((20, 30), SUPPORTED), ((45, 53), OPEN), ((70, 72), REFUTED)])
def test_rarely_by_hand(values: tuple, word: str) -> None:
    """Two seeds: mean ± 12.706 * half their distance; 25 ± 63.5 would reach beyond 50, so four seeds are drawn."""
    pairs = [groups("base", "dpo", seed, values[seed % 2], 3.0) for seed in range(4)]
    found = fixed_rarely(published({"base": {"dpo": {"ae2_lc": cell()}}}, pairs), "dpo", 50.0)
    half = 3.182446 * np.std([*values, *values], ddof=1) / 2  # t of three degrees of freedom
    mean = sum(values) / 2
    assert found.word == word
    assert f"The base {mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]; asked for is less than 50" in found.why


def test_pairs_are_compared_seed_by_seed() -> None:
    """Margins that differ by 1 between seeds and by 0.2 between rows: paired, the interval is 0.2 ± 0."""
    pairs = [groups("base", "dpo", seed, 20, float(seed), ended=70 + seed) for seed in (1, 2, 3)]
    pairs += [groups("base", "focalpo", seed, 20, seed + 0.2, ended=69 + seed) for seed in (3, 2, 1, 4)]
    table = published({"base": {"dpo": {}, "focalpo": {}}}, pairs)
    wider, fewer = margins_of_right(table, "focalpo", "dpo"), ended_right(table, "focalpo", "dpo")
    assert wider.word == SUPPORTED and "The base +0.2 [+0.2, +0.2] nats" in wider.why
    assert fewer.word == REFUTED and "-1.0 [-1.0, -1.0] points" in fewer.why
    alone = published({"base": {}}, pairs[:1])
    assert margins_of_right(alone, "focalpo", "dpo").word == UNTESTED, "one seed has no spread"
    assert "publish the table's report again" in margins_of_right(published({"base": {}}), "focalpo", "dpo").why


@pytest.mark.parametrize("scale", CLAIMS.scales)
def test_margins_are_compared_with_dpo_of_the_same_beta(scale: str) -> None:
    table = compose_table(CLAIMS.scales[scale].table)
    for setting in table.settings:
        ours, theirs = (
            compose_rows(only_row(table, setting, row), [])[setting, row] for row in (CLAIMS.subject, CLAIMS.compared)
        )
        assert theirs.objective.beta == ours.objective.beta, (setting, ours, theirs)
        assert theirs.train.learning_rate == ours.train.learning_rate


def test_the_groups_of_pairs_by_hand(tmp_path: Path) -> None:
    """Five pairs: right and kept, right and lost, wrong and fixed, wrong and left, a tie that stays one (half each)."""
    zero = np.zeros(5)
    states = {name: zero for name in Change.__dataclass_fields__ if name != "ids"}
    states |= {"start_chosen": np.array([1.0, 1, -1, -1, 0]), "end_chosen": np.array([3.0, -2, 2, -1, 0])}
    change = Change(ids="abcde", **states)
    found = _measured("base", "dpo", "1", change)
    assert (found.pairs, found.started_right, found.ended_right) == (5, 50.0, 50.0)
    assert found.kept == pytest.approx(60.0) and found.fixed == pytest.approx(40.0)  # 1.5 and 1 of 2.5
    assert (found.margin_right, found.margin_wrong) == (-0.5, 1.5)  # means of 2, -3 and of 3, 0
    (tmp_path / "pairs.csv").write_text(as_pairs_csv([found]))
    assert read_pairs_csv(tmp_path / "pairs.csv") == [found]


def test_a_report_has_the_groups_of_every_training(sealed_report: Path) -> None:
    written = read_pairs_csv(sealed_report / "pairs.csv")
    assert [(each.row, each.seed) for each in written] == [(r, s) for r in ("dpo", "focalpo") for s in ("1", "2")]
    assert written == pair_groups(TableRun.read(sealed_report))
    assert all(each.pairs == 40 for each in written)


def test_a_claim_without_a_run_is_not_tested_with_the_command_that_would() -> None:
    verdicts = verdicts_of(CLAIMS, {})
    assert {each.word for name in ("surpasses_dpo", "rarely_fixed") for each in verdicts[name].values()} == {UNTESTED}
    assert "make reproduce-table1 SCALE=laptop" in verdicts["fixed_gamma"]["laptop"].why
    text = " ".join(as_terminal_claims(CLAIMS, verdicts).split())
    assert all(claim.says in text and claim.needs in text for claim in CLAIMS.claims.values())
    assert as_markdown_claims(CLAIMS, verdicts).count("not tested") == 3 * 6
