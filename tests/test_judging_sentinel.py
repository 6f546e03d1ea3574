"""The judge-drift sentinel: drift by hand, whose record counts, and the warning when a judge has drifted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.judging.earlier import opening
from focalpo.judging.protocol import load_protocol
from focalpo.judging.sentinel import Drift, First, drift, openings, read_sentinel, recorded_or
from focalpo.judging.sentinel import judged as pairs_judged
from focalpo.pocket.judge import complete
from focalpo.stages.folder import Folder, Stage
from recipes.judge import make as judge_stage
from tests.judge_stub import Fault, completion, judge_stub, opened
from tests.judged_table import ARGUMENTS, seal_stand_ins, stages_of

EVAL = Path(__file__).parent.parent / "eval"


def test_drift_by_hand() -> None:
    recorded = {"a": 0.9, "b": 0.2, "c": 0.5, "d": 1.0}
    found = {"a": 0.6, "b": 0.7, "c": 0.4, "d": 1.0}
    # b has another winner, c was a tie and is not one now; 0.3 + 0.5 + 0.1 + 0 over four
    assert drift(recorded, found) == Drift(4, pytest.approx(0.5), pytest.approx(0.225))
    assert drift(recorded, recorded) == Drift(4, 0.0, 0.0)


def test_the_first_run_makes_the_record_and_later_ones_read_it(tmp_path: Path) -> None:
    record = tmp_path / ".sentinel-a.json"
    first = First("one", {"a": 0.25})
    assert recorded_or(record, first) == first
    assert recorded_or(record, First("two", {"a": 0.75})) == first
    assert [path.name for path in tmp_path.iterdir()] == [".sentinel-a.json"]


def test_a_missing_or_invalid_sentinel_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sentinel .*nothing.yaml; set judge.sentinel to null or to a file"):
        read_sentinel(tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("most_changed: 0.1\npairs:\n  - {prompt: a, first: b}\n")
    with pytest.raises(ValueError, match=r"each with prompt, first, second \('second'\)"):
        read_sentinel(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", ["sentinel", "sentinel_pocket"])
def test_the_pairs_of_eval_differ_and_the_hash_depends_on_them_alone(name: str, tmp_path: Path) -> None:
    sentinel = read_sentinel(EVAL / f"{name}.yaml")
    assert len(sentinel.questions) >= 10
    for question, answer in zip(sentinel.questions, sentinel.answers, strict=True):
        assert question.prompt == answer.prompt and question.reference != answer.text
    other = tmp_path / "other.yaml"
    text = (EVAL / f"{name}.yaml").read_text()
    other.write_text(text.replace("most_changed: 0.15", "most_changed: 0.5"))
    assert read_sentinel(other).hash == sentinel.hash
    other.write_text(text.replace("second: ", "second: no ", 1))
    assert read_sentinel(other).hash != sentinel.hash


@pytest.mark.parametrize("name", ["alpaca_eval_2", "arena_hard_v0_1", "arena_hard_v2_0"])
def test_every_kind_of_benchmark_judges_the_pairs(name: str, tmp_path: Path) -> None:
    sentinel, protocol = read_sentinel(EVAL / "sentinel.yaml"), load_protocol(EVAL / f"{name}.yaml")
    logprobs = {"m": -0.1, "M": -2.0}
    with judge_stub(lambda *_: completion("[[A>B]]", logprobs)) as stub, opened(stub.url, tmp_path) as endpoint:
        found = pairs_judged(sentinel, protocol, endpoint)
    assert len(found) == len(sentinel.questions) * (1 if name == "alpaca_eval_2" else 2)


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stage]:
    """A runs folder with every input of a judge stage sealed, and that stage."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = [*ARGUMENTS, f"runs={runs}"]
    seal_stand_ins(runs, arguments)
    return runs, next(stage for stage in stages_of(arguments) if stage.kind == "judge")


def judged(judging: tuple[Path, Stage], base_url: str | None, sentinel: str | None = "sentinel_pocket") -> dict:
    """The facts of a fresh judge stage at an address; of earlier runs, only the sentinel's record remains."""
    runs, stage = judging
    endpoint = stage.launch["endpoint"] | {"base_url": base_url, "concurrency": 8}
    launch = stage.launch | {"endpoint": endpoint, "sentinel": sentinel}
    folder = Folder(runs, Stage(stage.kind, stage.name, stage.settings, stage.inputs, launch))
    if base_url is not None:
        shutil.rmtree(folder.path, ignore_errors=True)
    with folder.being_made() as job:
        return judge_stage(job)


def undecided(body: dict, _: int) -> dict:
    """A judge that has a label only for a game's second turn."""
    first = all(message["role"] != "assistant" for message in body["messages"])
    return completion("I cannot say" if first else "[[A>B]]", {"m": -0.1, "M": -2.0})


def test_openings_are_those_of_the_requests_that_are_sent(tmp_path: Path) -> None:
    """A game's second turn, asked where the first has no label, has the opening of the first."""
    sentinel = read_sentinel(EVAL / "sentinel.yaml")
    for name in ("alpaca_eval_2", "arena_hard_v0_1", "arena_hard_v2_0"):
        protocol = load_protocol(EVAL / f"{name}.yaml")
        with judge_stub(undecided) as stub, opened(stub.url, tmp_path / name) as endpoint:
            pairs_judged(sentinel, protocol, endpoint)
        sent = {opening(request) for request in stub.requests}
        assert sent and sent <= openings(sentinel, [protocol]) and openings(None, [protocol]) == set()


def contrary(body: dict, _: int) -> dict:
    """The pocket judge with the letters of its verdicts swapped: another model behind the same name."""
    text = json.dumps(complete(body))
    for one, other in (('"m"', '"M"'), ("[[A", "[[B"), ("B]]", "A]]")):
        text = text.replace(one, "<>").replace(other, one).replace("<>", other)
    return json.loads(text)


@pytest.mark.slow
def test_a_drifted_judge_gives_a_warning_and_an_unchanged_one_does_not(judging: tuple[Path, Stage]) -> None:
    with judge_stub(lambda body, _: complete(body)) as stub:
        first = judged(judging, stub.url)
        assert "copy these words : elephant jam ink zebra" in str(stub.requests[:10]), "the sentinel comes first"
        same = judged(judging, stub.url)
    for facts in (first, same):
        assert facts["warnings"] == []
        assert facts["sentinel"]["alpaca_eval"] == {"verdicts": 10, "changed": 0.0, "moved": 0.0, "first": True}
        assert facts["sentinel"]["arena_hard"] == {"verdicts": 20, "changed": 0.0, "moved": 0.0, "first": True}
    with judge_stub(contrary) as stub:
        moved = judged(judging, stub.url)
    assert moved["sentinel"]["alpaca_eval"]["changed"] >= 0.9
    assert [warning.partition(", ")[0] for warning in moved["warnings"]] == [
        "Pocket AlpacaEval: the judge has drifted",
        "Pocket Arena-Hard: the judge has drifted",
    ]
    replayed = judged(judging, None)
    assert replayed["sentinel"] == moved["sentinel"] and replayed["warnings"] == moved["warnings"]
    assert replayed["calls"]["calls"] == 0


@pytest.mark.slow
def test_a_judge_that_has_drifted_is_named_although_earlier_records_answer_its_questions(
    judging: tuple[Path, Stage],
) -> None:
    """As when code has changed: everything is taken from the last stage's records but the sentinel's pairs."""
    runs, stage = judging
    with judge_stub(lambda body, _: complete(body)) as stub:
        questions = judged(judging, stub.url)["calls"]["calls"] - 30
    changed = replace(stage, settings=stage.settings | {"code": "changed"})
    with judge_stub(contrary) as stub:
        facts = judged((runs, changed), stub.url)
    shutil.rmtree(Folder(runs, changed).path)
    assert facts["records_of"] and facts["sentinel"]["arena_hard"]["changed"] >= 0.8
    # Two of the sentinel's are asked first, in the preflight, and read again.
    assert (facts["calls"]["calls"], facts["calls"]["replayed"]) == (30, questions + 2)
    assert len(facts["warnings"]) == 2


@pytest.mark.slow
def test_a_failed_sentinel_does_not_stop_judging_and_a_recording_without_one_gives_no_warning(
    judging: tuple[Path, Stage],
) -> None:
    refused = Fault(400, b"{}")
    with judge_stub(lambda body, _: refused if "elephant jam ink zebra" in str(body) else complete(body)) as stub:
        facts = judged(judging, stub.url)
        assert [warning.partition(", ")[0] for warning in facts["warnings"]] == [
            "Pocket AlpacaEval: the judge's drift is not known",
            "Pocket Arena-Hard: the judge's drift is not known",
        ]
        assert facts["sentinel"] == {}
        assert judged(judging, stub.url, sentinel=None)["warnings"] == []
    offline = judged(judging, None)
    assert (offline["sentinel"], offline["warnings"]) == ({}, [])
