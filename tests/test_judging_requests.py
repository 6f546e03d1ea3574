"""What a judge is asked: the protocol's map of fields, another judge by one flag, hashes that know the difference."""

from pathlib import Path

import pytest
import yaml

from focalpo.config.compose import compose
from focalpo.judging.protocol import load_protocol, protocol_hash
from focalpo.judging.requests import asked_of, body_of, longest_reply, protocol_of
from focalpo.judging.thinking import spoken
from focalpo.planning.stages import in_order, row_stages
from focalpo.reporting.verdicts import protocols_of
from focalpo.stages.folder import Folder, Stage

EVAL = Path(__file__).parent.parent / "eval"
# What the protocols' hashes were while temperature and max_tokens were keys of their own: what was generated and judged
# under them is still valid. Of v2.0, the hash since its prompts are the authors'.
HASHES = {
    "alpaca_eval_2": "f496d8bfbbf6f2a1",
    "arena_hard_v0_1": "30137c628c8fe744",
    "arena_hard_v2_0": "8977808652697efe",
}
MESSAGES = [{"role": "user", "content": "compare"}]


@pytest.mark.parametrize("name", HASHES)
def test_the_map_of_fields_did_not_change_the_hash_of_a_protocol(name: str) -> None:
    assert protocol_hash(load_protocol(EVAL / f"{name}.yaml")) == HASHES[name]


@pytest.mark.parametrize("name", HASHES)
def test_another_judge_or_another_field_makes_another_protocol(name: str) -> None:
    own = load_protocol(EVAL / f"{name}.yaml")
    others = [
        asked_of(own, "another-judge", {}),
        asked_of(own, None, {"seed": 1}),
        asked_of(own, None, {"temperature": None}),
    ]
    assert len({protocol_hash(each) for each in (own, *others)}) == 4
    assert protocol_hash(asked_of(own, own.judge, {})) == protocol_hash(own)
    body = body_of(others[0], MESSAGES)
    assert body == body_of(own, MESSAGES) | {"model": "another-judge"}
    assert "temperature" in body and "temperature" not in body_of(others[2], MESSAGES)
    assert body_of(others[1], MESSAGES)["seed"] == 1


def test_fields_of_every_request_cannot_be_changed() -> None:
    own = load_protocol(EVAL / "arena_hard_v0_1.yaml")
    with pytest.raises(ValueError, match=r"judge.request.model is filled by the protocol; set judge.model"):
        asked_of(own, None, {"model": "another"})


def test_the_limit_of_a_reply_has_two_names_and_a_default() -> None:
    fields = ({"max_tokens": 7}, {"max_completion_tokens": 8}, {"max_tokens": None}, {})
    assert [longest_reply(each) for each in fields] == [7, 8, 4096, 4096]


def test_an_arena_protocol_needs_a_map(tmp_path: Path) -> None:
    for file in EVAL.glob("arena_hard*"):
        (tmp_path / file.name).write_text(file.read_text())
    values = yaml.safe_load((EVAL / "arena_hard_v0_1.yaml").read_text()) | {"request": 0}
    (tmp_path / "arena_hard_v0_1.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"'request' must hold the fields of each request, as in \{temperature: 0\}"):
        load_protocol(tmp_path / "arena_hard_v0_1.yaml")


def judge_stage(*overrides: str) -> Stage:
    stage = row_stages(compose(["experiment=pocket/dpo", *overrides]), "row").judge
    assert stage is not None
    return stage


def test_another_judge_is_one_flag_and_judges_the_answers_that_are_there() -> None:
    own, other = judge_stage(), judge_stage("judge.model=another-judge")
    assert own.key != other.key
    assert {name: stage.key for name, stage in own.inputs.items()} == {n: s.key for n, s in other.inputs.items()}
    for values in other.settings["protocols"].values():
        protocol = protocol_of(values)
        assert protocol.judge == "another-judge" and protocol_hash(protocol) == values["hash"]
    pinned = judge_stage("judge.model=another-judge", "+judge.request.provider={only: [one], allow_fallbacks: false}")
    assert len({own.key, other.key, pinned.key}) == 3
    values = pinned.settings["protocols"]["arena_hard"]
    assert body_of(protocol_of(values), MESSAGES)["provider"] == {"only": ["one"], "allow_fallbacks": False}
    assert len(in_order([own, other])) == len(in_order([own])) + 1


def test_another_judge_of_the_papers_file_is_not_the_papers_protocol(tmp_path: Path) -> None:
    """Verdicts against the paper's numbers are given by the protocol's name: with another judge it is another."""
    found = []
    for asked in ({}, {"asked": {"model": "another-judge", "request": {}}}):
        stage = Stage(
            "judge", "row", {"protocols": {"alpaca_eval": {"protocol": "alpaca_eval_2", "hash": "0"} | asked}}
        )
        folder = Folder(tmp_path, stage)
        with folder.being_made():
            folder.seal(0.0)
        found.append(protocols_of([folder.path])["alpaca_eval"])
    assert found[0] == "alpaca_eval_2" and found[1] != "alpaca_eval_2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m", "m"),
        (" m\n", " m\n"),  # as it is: records of earlier replies are read as they were
        ("<think>\nm is shorter.\n</think>\n\nM", "M"),
        ("m is shorter.\n</think>M", "M"),  # the chat template has opened the thought
        ("<think>one</think> m <think>no</think> M ", "M"),
        ("\n<think>\nm is sho", ""),  # cut off by the limit
        ("I <think> so", "I <think> so"),
    ],
)
def test_thoughts_are_not_the_verdict(text: str, said: str) -> None:
    assert spoken(text) == said
