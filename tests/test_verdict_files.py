"""What we write of a judge's verdicts: row for row alpaca_eval's, with its scores; arena's by a parse of its own."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from focalpo.judging import endpoint as endpoint_module
from focalpo.judging.alpaca_eval import judge_alpaca
from focalpo.judging.answer_files import alpaca_outputs
from focalpo.judging.arena_hard import judge_arena
from focalpo.judging.benchmarks import read_questions
from focalpo.judging.protocol import AlpacaProtocol, ArenaProtocol, annotator_config, load_protocol
from focalpo.judging.read_back import read_replies
from focalpo.judging.requests import asked_of
from focalpo.judging.verdict_files import (
    Judged,
    alpaca_annotations,
    annotator_name,
    arena_judgments,
)
from focalpo.pocket.benchmarks import write_benchmark
from focalpo.scoring.annotations import as_leaderboard, read_annotations, score
from focalpo.scoring.length_control import read_gamed
from focalpo.scoring.stats import arena_score, value
from focalpo.stages.records import AlpacaVerdict, Completion, Question
from tests.judge_stub import Fault, completion, judge_stub, opened

EVAL = Path(__file__).parent.parent / "eval"
ROWS = 40
MODEL = "our-model"
LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
RESULTS = {"A>>B": (1, 3), "A>B": (1, 1), "A=B": (0.5, 1), "B>A": (0, 1), "B>>A": (0, 3)}
pytestmark = pytest.mark.filterwarnings(
    "ignore:pkg_resources is deprecated", "ignore:Deprecated call to `pkg_resources"
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_SECONDS", 0.001)


def judge_by_text(body: dict, _: int) -> dict:
    """A preference that follows from nothing but the characters that it is shown, the same for a request every time."""
    draw = sum(body["messages"][-1]["content"].encode()) % 97 / 97
    return completion("m", {"m": -0.1 - draw, "M": -2.0 + draw})


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark("alpaca_eval", folder, rows=ROWS)
    return folder


def alpaca(name: str = "pocket_alpaca_eval") -> AlpacaProtocol:
    return replace(load_protocol(EVAL / f"{name}.yaml"), prompts=ROWS)


def answers_to(questions: list[Question]) -> list[Completion]:
    """The reference itself, an empty answer, and answers of other lengths."""
    texts = [questions[0].reference, "", *(f"{'so ' * (n % 7)}answer {n}" for n in range(2, len(questions)))]
    return [Completion(q.id, q.prompt, text, 3, True) for q, text in zip(questions, texts, strict=True)]


def annotated(
    benchmark: Path, folder: Path, protocol: AlpacaProtocol, script=judge_by_text, most_missing: float = 0.0
) -> tuple[list[dict], list[AlpacaVerdict]]:
    asked = json.loads((benchmark / "alpaca_eval.json").read_text())
    questions = read_questions(alpaca(), benchmark)
    answers = answers_to(questions)
    with judge_stub(script) as stub, opened(stub.url, folder) as endpoint:
        verdicts = judge_alpaca(questions, answers, protocol, endpoint, most_missing)
    judged = Judged(MODEL, questions, answers, read_replies(folder / "records.jsonl"))
    return alpaca_annotations(protocol, asked, judged, verdicts), verdicts


@pytest.fixture
def library(tmp_path: Path) -> Iterator[object]:
    """alpaca_eval with its annotator in a folder of its own name, as in the library's own evaluators_configs."""
    import alpaca_eval
    import sklearn

    folder = tmp_path / "weighted_alpaca_eval_pocket"
    folder.mkdir()
    (folder / "configs.yaml").write_text(yaml.safe_dump(annotator_config(alpaca().annotator)))
    level = logging.getLogger().level
    yield alpaca_eval.annotators.PairwiseAnnotator(
        annotators_config=folder / "configs.yaml", seed=0, caching_path=None, is_avoid_reannotations=False
    )
    logging.getLogger().setLevel(level)
    sklearn.set_config(enable_metadata_routing=False)  # the library enables it for the whole process


def test_annotations_are_those_of_the_library_itself(benchmark: Path, tmp_path: Path, library) -> None:
    """Its own head-to-head of both files against the same judge: the same rows, fields, preferences and replies."""
    import openai

    ours, _ = annotated(benchmark, tmp_path, alpaca())
    asked = json.loads((benchmark / "alpaca_eval.json").read_text())
    outputs = alpaca_outputs(asked, answers_to(read_questions(alpaca(), benchmark)), MODEL)
    with judge_stub(judge_by_text) as stub:
        client = openai.OpenAI(base_url=stub.url, api_key="none")
        theirs = library.annotate_head2head(
            outputs_1=asked, outputs_2=outputs, client_kwargs={"client": client}, num_procs=1
        )
    assert len(ours) == len(theirs) == ROWS
    for mine, other in zip(ours, theirs, strict=True):
        unsaid = {"preference_date"} | {
            name for name, each in other.items() if isinstance(each, float) and each != each
        }
        assert mine.keys() == other.keys() - unsaid, "equal outputs are a draw without a reply"
        timed = {"preference_time_per_example", "preference_raw_completion"}
        assert {name: mine[name] for name in mine.keys() - timed} == {name: other[name] for name in mine.keys() - timed}
        if "preference_raw_completion" in mine:
            reply, their_reply = mine["preference_raw_completion"], other["preference_raw_completion"]
            assert (reply["text"], reply["total_tokens"]) == (their_reply["text"], their_reply["total_tokens"])
            for token, their_token in zip(
                reply["logprobs"]["content"][0]["top_logprobs"],
                their_reply["logprobs"]["content"][0]["top_logprobs"],
                strict=True,
            ):
                assert (token["token"], token["logprob"]) == (their_token["token"], their_token["logprob"])
    assert [row["preference"] for row in ours][0] == 1.5 and "preference_raw_completion" not in ours[0]
    assert ours[1]["output_2"] == "" and "preference_raw_completion" in ours[1]


def test_the_leaderboard_row_is_what_the_library_computes_from_the_written_file(
    benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sklearn
    from alpaca_eval.metrics import get_winrate, glm_winrate

    rows, verdicts = annotated(benchmark, tmp_path, alpaca())
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    found = score(read_annotations(file), read_gamed(benchmark / "df_gamed.csv"))
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(benchmark / "df_gamed.csv"))
    read_back = pd.read_json(file, precise_float=True)
    theirs = glm_winrate.get_length_controlled_winrate(read_back, save_weights_dir=None)
    sklearn.set_config(enable_metadata_routing=False)
    (tmp_path / "leaderboard.csv").write_text(as_leaderboard(MODEL, found))
    ours = pd.read_csv(tmp_path / "leaderboard.csv", index_col=0).loc[MODEL]
    for name, number in {**get_winrate(read_back), **theirs}.items():
        assert ours[name] == pytest.approx(float(number), rel=1e-13), name
    assert ours["avg_length"] == int(read_back["output_2"].str.len().mean()) and ours["mode"] == "community"
    assert ours["n_total"] == ROWS and ours["n_draws"] >= 1
    columns = "win_rate standard_error n_wins n_wins_base n_draws n_total discrete_win_rate mode avg_length"
    assert list(ours.index) == [*columns.split(), "length_controlled_winrate", "lc_standard_error"]
    assert [row["preference"] for row in rows] == [verdict.preference for verdict in verdicts]


def test_a_missing_verdict_is_null_and_left_out_by_both(benchmark: Path, tmp_path: Path) -> None:
    from alpaca_eval.metrics import get_winrate

    def some(body: dict, times: int) -> dict | Fault:
        silent = "answer 5 " in body["messages"][-1]["content"].replace("\n", " ").replace('"', " ")
        return completion("no verdict") if silent else judge_by_text(body, times)

    rows, verdicts = annotated(benchmark, tmp_path, alpaca(), some, most_missing=0.1)
    gone = [n for n, verdict in enumerate(verdicts) if not verdict.judged]
    assert gone == [n for n, row in enumerate(rows) if row["preference"] is None] == [5]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    found = score(read_annotations(tmp_path / "annotations.json"), None)
    theirs = get_winrate(pd.read_json(tmp_path / "annotations.json", precise_float=True))
    assert found.judged == theirs["n_total"] == ROWS - 1
    assert found.win_rate == pytest.approx(theirs["win_rate"], rel=1e-13)


def test_a_judge_that_the_annotator_does_not_name_is_named() -> None:
    assert annotator_name(load_protocol(EVAL / "alpaca_eval_2.yaml")) == "weighted_alpaca_eval_gpt4_turbo"
    other = asked_of(load_protocol(EVAL / "alpaca_eval_2_reasoning.yaml"), "some/judge", {})
    assert annotator_name(other) == "alpaca_eval_reasoning_some_judge"


def test_a_verdict_as_text_is_written_without_what_the_judge_thought(benchmark: Path, tmp_path: Path) -> None:
    rows, _ = annotated(
        benchmark, tmp_path, alpaca("alpaca_eval_2_reasoning"), lambda *_: completion("<think>M?</think>m")
    )
    assert {row.get("preference_raw_completion") for row in rows} == {None, "m"}
    assert {row["preference"] for row in rows} == {1.0, 1.5, 2.0}


def arena(name: str, prompts: int) -> ArenaProtocol:
    return replace(load_protocol(EVAL / f"{name}.yaml"), prompts=prompts)


def played(name: str, folder: Path, script) -> tuple[list[dict], float, list[Question]]:
    """The judgments of 12 questions, and their score by our own verdicts."""
    category = "hard_prompt/" if "v2" in name else ""
    prompts = [[{"role": "user", "content": f"question {n} {{answer_1}}"}] for n in range(12)]
    questions = [Question(f"{category}q{n}", prompt, f"reference {n}") for n, prompt in enumerate(prompts)]
    answers = [Completion(q.id, q.prompt, f"ours {n}", 1, True) for n, q in enumerate(questions)]
    with judge_stub(script) as stub, opened(stub.url, folder, max_attempts=2) as endpoint:
        games = judge_arena(questions, answers, arena(name, 12), endpoint, most_missing=0.2)
    judged = Judged(MODEL, questions, answers, read_replies(folder / "records.jsonl"))
    shape = (1, 12, 2)
    results, weights = (
        np.array([getattr(game, each) for game in games]).reshape(shape) for each in ("result", "weight")
    )
    return arena_judgments(arena(name, 12), judged, games), value(arena_score(results, weights)), questions


def label_of(body: dict) -> str:
    return LABELS[sum(body["messages"][1]["content"].encode()) % len(LABELS)]


def decided(body: dict, _: int) -> dict:
    """A verdict at once, but for two questions: one in the second turn only, one never in the second game."""
    asked, second = body["messages"][1]["content"], len(body["messages"]) == 4
    if "question 3 " in asked and not second:
        return completion("<think>[[A>>B]]</think>I cannot say yet.")
    if "question 7 " in asked and asked.index("ours") < asked.index("reference"):
        return completion("no label")
    return completion(f"Both were read. My final verdict is: [[{label_of(body)}]]")


def naive_score(rows: list[dict]) -> float:
    """From the games' labels alone: the baseline is A in the first game, the model in the second."""
    won = battles = 0.0
    for row in rows:
        for place, game in enumerate(row["games"]):
            if game["score"] is not None:
                wins, count = RESULTS[game["score"]]
                won += count * (wins if place else 1 - wins)
                battles += count
    return 100 * won / battles


@pytest.mark.parametrize("name", ["arena_hard_v0_1", "arena_hard_v2_0"])
def test_judgments_hold_both_games_and_give_the_score_by_a_parse_of_their_labels(name: str, tmp_path: Path) -> None:
    rows, ours, questions = played(name, tmp_path, decided)
    assert naive_score(rows) == pytest.approx(ours, rel=1e-13) and len(rows) == 12
    two = name.endswith("v2_0")
    for n, (row, question) in enumerate(zip(rows, questions, strict=True)):
        assert row["uid" if two else "question_id"] == f"q{n}" and row["model"] == MODEL
        for place, game in enumerate(row["games"]):
            shown = game["prompt"][1]["content"] if two else game["user_prompt"]
            first, second = (f"ours {n}", question.reference) if place else (question.reference, f"ours {n}")
            assert shown.index(first) < shown.index(second) and f"question {n} {{answer_1}}" in shown
            said = game["judgment"]["answer"] if two else game["judgment"]
            assert game["score"] is None or f"[[{game['score']}]]" in said
            assert "<think>" not in said
    assert rows[7]["games"][1]["score"] is None and rows[7]["games"][0]["score"] is not None
    late = rows[3]["games"][0]
    said = late["judgment"]["answer"].split("\n") if two else late["judgment"].split("\n")[1:]
    assert said[0] == "I cannot say yet." and "final verdict" in said[1] and len(said) == 2
    if two:
        assert rows[0].keys() == {"uid", "category", "judge", "model", "baseline", "games"}
        assert (rows[0]["category"], rows[0]["baseline"]) == ("hard_prompt", "o3-mini-2025-01-31")
        assert rows[0]["judge"] == "gpt-4.1" and rows[0]["games"][0].keys() == {"score", "judgment", "prompt"}
    else:
        assert rows[0].keys() == {"question_id", "model", "judge", "games"} and rows[0]["judge"] == "gpt-4-1106-preview"
        assert rows[0]["games"][0].keys() == {"user_prompt", "judgment", "score"}


def test_records_without_a_judgment_that_was_scored_are_refused(tmp_path: Path) -> None:
    _, _, questions = played("arena_hard_v0_1", tmp_path, lambda body, _: completion(f"[[{label_of(body)}]]"))
    answers = [Completion(q.id, q.prompt, f"ours {n}", 1, True) for n, q in enumerate(questions)]
    with opened(None, tmp_path) as endpoint:
        games = judge_arena(questions, answers, arena("arena_hard_v0_1", 12), endpoint)
    with pytest.raises(ValueError, match=r"hold no judgment .* of q0, game 1; restore them"):
        arena_judgments(arena("arena_hard_v0_1", 12), Judged(MODEL, questions, answers, {}), games)
