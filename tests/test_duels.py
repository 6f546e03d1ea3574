"""Duels: who is shown first, what is asked, which rows meet, what it costs, what is printed."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.config.mistakes import Mistake
from focalpo.judging.alpaca_eval import model_shown_first
from focalpo.judging.dispatch import judge
from focalpo.judging.duels import games_of, pairs_of, task_of
from focalpo.judging.protocol import load_protocol
from focalpo.planning.duels import expected, planned_duels
from focalpo.planning.stages import in_order
from focalpo.reporting.duel_tables import as_markdown, as_text, finding
from focalpo.reporting.duels import DuelResults, Line, Rated
from focalpo.running.command import leave_to_slurm
from focalpo.scoring.bradley_terry import Standing
from focalpo.scoring.differences import student_difference
from focalpo.scoring.duels import Duel
from focalpo.stages.records import Completion, DuelGame, Question
from recipes.duels import duels
from tests.judge_stub import completion, judge_stub, opened

EVAL = Path(__file__).parent.parent / "eval"
TABLE = ["settings=base", "rows=dpo,focalpo", "seeds=1"]


# ---- games


def answers(*texts: str) -> list[Completion]:
    return [
        Completion(f"q{n}", [{"role": "user", "content": f"question {n}"}], text, 3, True)
        for n, text in enumerate(texts)
    ]


FIRST, SECOND = answers("good one", "good two", "equal", "good four"), answers("bad 1", "bad 2", "equal", "good 4")


def played(name: str, script, folder: Path, changed: dict | None = None) -> tuple[list[DuelGame], int]:
    """The games of both rows under a protocol, and how many requests they took."""
    protocol = replace(load_protocol(EVAL / f"{name}.yaml"), prompts=4)
    questions = [Question(each.id, each.prompt, "the baseline's") for each in FIRST]
    pairs = pairs_of(questions, FIRST, SECOND, protocol)
    sized, asked, completions = task_of(pairs, protocol)
    with judge_stub(script) as stub, opened(stub.url, folder, max_attempts=1) as endpoint:
        verdicts = judge(asked, completions, sized, endpoint, most_missing=0.5)
        assert all("baseline" not in str(body["messages"]) for body in stub.requests)
        return games_of(pairs, verdicts), len(stub.requests)


def verdict(body: dict, first_wins: bool) -> dict:
    if "[[A" in str(body["messages"]):  # Arena-Hard's instructions
        return completion(f"My final verdict is: [[{'A>B' if first_wins else 'B>A'}]]")
    return completion(
        "m" if first_wins else "M", {"m": -0.1 if first_wins else -2.4, "M": -2.4 if first_wins else -0.1}
    )


def by_words(body: dict, _: int) -> dict:
    """Prefers the answer that spells its number out, in either place."""
    text = body["messages"][-1]["content"]
    return verdict(body, re.search(r"(good|bad) (\w+)", text)[2].isalpha())


@pytest.mark.parametrize("name", ["alpaca_eval_2", "arena_hard_v0_1"])
def test_a_judge_without_a_bias_gives_both_orders_to_the_same_row(name: str, tmp_path: Path) -> None:
    found, requests = played(name, by_words, tmp_path)
    assert [(game.id, game.leads) for game in found] == [(f"q{n}", leads) for n in range(4) for leads in (True, False)]
    assert all(game.result > 0.9 for game in found if not game.same) and all(game.weight == 1 for game in found)
    assert [(game.same, game.result) for game in found if game.id == "q2"] == [(True, 0.5)] * 2
    assert requests == 6, "nothing is asked about equal answers"
    assert (found[0].length, found[0].other_length) == (len("good one"), len("bad 1"))


@pytest.mark.parametrize("name", ["alpaca_eval_2", "arena_hard_v0_1"])
def test_a_judge_that_likes_what_it_sees_first_gives_one_game_to_each(name: str, tmp_path: Path) -> None:
    found, _ = played(name, lambda body, _: verdict(body, True), tmp_path)
    asked = [game for game in found if not game.same]
    assert all((game.result > 0.9) == game.leads and abs(game.result - 0.5) > 0.4 for game in asked)
    assert len({model_shown_first(f"question {n}") for n in (0, 1, 3)}) == 2, "the library draws either order"


@pytest.mark.parametrize("name", ["alpaca_eval_2", "arena_hard_v0_1"])
def test_a_game_without_a_verdict_has_no_weight(name: str, tmp_path: Path) -> None:
    def script(body: dict, _: int) -> dict:
        silent = "good two" in str(body["messages"]) and not by_order(body)
        return completion("the weather is fine") if silent else by_words(body, 0)

    def by_order(body: dict) -> bool:
        text = str(body["messages"])
        return text.index("good two") < text.index("bad 2")

    found, _ = played(name, script, tmp_path)
    assert [(game.id, game.leads) for game in found if not game.weight] == [("q1", False)]
    assert math.isnan(found[3].result)


# ---- plans


def test_by_default_every_row_meets_the_one_that_the_table_compares_with_on_the_seeds_that_both_have() -> None:
    plan = planned_duels(["rows=sft,dpo,focalpo"])
    assert list(plan.report.inputs) == [
        f"{setting}/{pair}/{seed}"
        for setting in ("base", "instruct")
        for pair, seeds in (("sft:dpo", 3), ("focalpo:dpo", 5))
        for seed in range(1, seeds + 1)
    ]
    stage = plan.report.inputs["base/focalpo:dpo/4"]
    rows = plan.rows["base", "focalpo", "4"], plan.rows["base", "dpo", "4"]
    assert [stage.inputs[name] for name in ("completions", "opponent")] == [row.generate for row in rows]
    assert stage.launch == rows[0].judge.launch and stage.settings["judge"] == rows[0].judge.settings["judge"]
    assert not [each for each in in_order([plan.report]) if each.kind in ("judge", "report")], "no baseline is asked"


def test_pairs_are_named_or_all() -> None:
    def pairs(*arguments: str) -> list[str]:
        return list(planned_duels(["settings=base", "rows=sft,dpo,ipo", "seeds=1", *arguments]).report.inputs)

    assert pairs("pairs=all") == ["base/sft:dpo/1", "base/sft:ipo/1", "base/ipo:dpo/1"]
    assert pairs("pairs=dpo:ipo") == ["base/dpo:ipo/1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("table=laptop", "the laptop table asks no judge, and duels need one; take table=pocket"),
        ("pairs=dpo:fokalpo", "'fokalpo' is no row of the table; did you mean focalpo?"),
        ("pairs=dpo", "'' is no row of the table"),
        ("pairs=dpo:dpo", "dpo cannot meet itself"),
        ("pairs=dpo:ipo,ipo:dpo", "names a pair twice"),
        ("pairs=all pairs=all", "pairs= is given twice"),
        ("rows=focalpo,ipo", "no row meets dpo among focalpo, ipo"),
        ("--simulate rows=dpo", "--simulate reads nothing else"),
    ],
)
def test_a_wrong_line_is_refused_in_one(arguments: str, said: str) -> None:
    with pytest.raises(Mistake, match=re.escape(said)) as refused:
        duels(arguments.split())
    assert "\n" not in str(refused.value)


def test_calls_and_cost_are_known_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paper = planned_duels(["table=paper", "settings=base", "rows=dpo,focalpo", f"runs={tmp_path}"])
    # 2 x 805 of 1401 tokens and 2 x 500 of 2900, at 10 and 30 dollars per million tokens
    price = (1610 * (1400 * 10 + 30) + 1000 * (2200 * 10 + 700 * 30)) / 1e6
    assert expected(paper) == (
        f"1 of 1 duels are left: at most 2,610 requests, {1610 * 1401 + 1000 * 2900:,} tokens, USD {price:.2f}"
    )
    duels([*TABLE, "--plan", f"runs={tmp_path}"])
    shown = capsys.readouterr().out
    assert re.search(r"duel +1 .* 1,200\n", shown) and "nothing was started" in shown and not list(tmp_path.iterdir())


def test_duels_leave_the_keys_of_judge_stages_alone_and_depend_on_their_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(*more: str) -> str:
        return planned_duels([*TABLE, *more]).report.inputs["base/focalpo:dpo/1"].key

    assert key() == key("judge.endpoint.concurrency=3") != key("judge.name=another")
    first = key()
    monkeypatch.setattr("focalpo.planning.code.DUELS", ("focalpo.judging.duels:pairs_of",))
    assert key() != first


def test_on_a_cluster_duels_are_an_array_and_their_tables_wait_for_any_end(
    fake_slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["-m", *TABLE, "cluster=slurm_cpu", f"runs={tmp_path / 'runs'}"])
    with pytest.raises(SystemExit):
        leave_to_slurm("duels")
    printed = capsys.readouterr().out
    assert printed.startswith("1 of 1 duels are left: at most 1,200 requests\n")
    duel = re.search(r"^(\d+)  duel x 1", printed, re.M)
    assert duel is not None and f"duels x 1  afterany:{duel[1]}" in printed


# ---- tables


def line(first: str, second: str, value: float, setting: str = "base", seeds: int = 5, p: float = 0.2) -> Line:
    found = student_difference(value, 1.0, 40.0)
    scores = Duel(seeds, 400, found, found, 30.0, 50.0, 100.0, -0.04, 0, None)
    return Line(setting, "alpaca_eval", first, second, scores, p, p)


def results(*lines: Line, rated: tuple[Rated, ...] = ()) -> DuelResults:
    labels = {
        "dpo": "DPO",
        "focalpo": "FocalPO",
        "sft_on_chosen": "SFT on chosen (control)",
        "focal": "Focal loss (the foil)",
    }
    return DuelResults("title", {"base": "Pocket base (off-policy pairs)"}, labels, "dpo", lines, rated, [])


def test_the_finding_is_about_focalpo_and_the_row_that_it_is_compared_with() -> None:
    sft = line("sft_on_chosen", "dpo", 9.0, p=0.001)
    level = finding(results(sft, line("focalpo", "dpo", -1.5)))
    assert level.startswith("FocalPO and DPO cannot be told apart: none of the 2 scores")
    assert "the farthest from 50 is 48.5 [46.5, 50.5]" in level and "over all 4)" in level
    ahead = finding(results(sft, line("focalpo", "dpo", 3.5, p=0.004)))
    assert ahead.startswith("FocalPO is significantly ahead of DPO in 2 and behind in 0 of the 2 scores")
    turned = finding(results(line("dpo", "focalpo", 3.5, p=0.004)))
    assert turned.startswith("DPO is significantly ahead of FocalPO in 2")


def test_the_widest_labels_fit_100_columns_and_nothing_is_minus_zero() -> None:
    names = ("sft_on_chosen", "focal", "focalpo")
    standing = [Standing(name, student_difference(-2.0, 0.3, 40.0)) for name in names]
    rated = (Rated("base", "alpaca_eval", 3, standing), Rated("base", "arena_hard", 3, standing))
    found = results(*(line(name, "dpo", -42.0, seeds=3, p=0.01) for name in names), rated=rated)
    text = as_text(found)
    assert max(map(len, text.splitlines())) <= 100 and "-0.0" not in text and "8.0 ±2.0*" in text
    assert "AlpacaEval, against DPO" in text and "3 training seeds or fewer behind 3 of 3 lines" in text
    assert "| 3 | 8.0 ±2.0\\* |" in as_markdown(found)


def test_ratings_that_do_not_exist_are_explained() -> None:
    found = as_text(results(line("focalpo", "dpo", 1.0), rated=(Rated("base", "alpaca_eval", 5, why="nobody lost"),)))
    assert "No Bradley-Terry table: nobody lost." in found and "Elo" not in found


def test_stages_have_their_recipe_and_a_size_on_every_cluster() -> None:
    plan = planned_duels([*TABLE, "cluster=slurm_cpu"])
    kinds = {stage.kind for stage in in_order([plan.report])}
    assert kinds - {"sft", "pairs", "reference", "train"} == {"benchmark", "generate", "duel", "duels"}
    assert kinds <= plan.first.cluster.stages.keys()
    assert json.dumps(plan.report.settings), "plain values"
