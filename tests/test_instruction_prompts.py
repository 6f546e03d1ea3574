"""Prompts of our own: drawn with their checkers' arguments, with no topic in two splits, and the benchmarks' files."""

import json
import random
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml

from focalpo.checking.instructions import Followed, check_kinds, conflicting, followed
from focalpo.checking.prompts import Draw, drawn
from focalpo.judging.protocol import EVAL
from focalpo.stages.folder import Job
from focalpo.stages.records import Completion, Instructed, Pair, Prompt, read_records, write_records
from recipes.generate import make_held_out
from recipes.on_policy import by_checkers, own_prompts

FILE = EVAL / "laptop_instructions.yaml"
DRAWS = [Draw("train", "trained", 300, 1), Draw("validation", "trained", 100, 1), Draw("held_out", "new", 100, 1)]
SOURCE = yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def made() -> list[list[Instructed]]:
    return [drawn(FILE, draw) for draw in DRAWS]


def test_prompts_are_distinct_repeatable_and_have_a_checker(made: list[list[Instructed]]) -> None:
    for draw, prompts in zip(DRAWS, made, strict=True):
        assert len({each.prompt for each in prompts}) == len({each.id for each in prompts}) == draw.count
        check_kinds(prompts)
    assert drawn(FILE, DRAWS[1]) == made[1]
    assert drawn(FILE, Draw("validation", "trained", 100, 2)) != made[1]


def test_no_prompt_is_about_a_topic_of_another_split_or_has_a_kind_that_is_kept_for_testing(made) -> None:
    topics = {split: set(found) for split, found in SOURCE["topics"].items()}
    assert not topics["train"] & (topics["validation"] | topics["held_out"]) | topics["validation"] & topics["held_out"]
    for draw, prompts in zip(DRAWS, made, strict=True):
        assert all(any(topic in each.prompt for topic in topics[draw.split]) for each in prompts)
    trained, new = ({entry["kind"] for entry in SOURCE[kinds]} for kinds in ("trained", "new"))
    assert not trained & new
    assert {kind for each in made[0] for kind in each.kinds} == trained
    assert {kind for each in made[2] for kind in each.kinds} == new


def test_instructions_exclude_nothing_that_another_demands(made: list[list[Instructed]]) -> None:
    for each in [each for prompts in made for each in prompts]:
        kinds = each.kinds
        assert not any(conflicting(a, b) for place, a in enumerate(kinds) for b in kinds[:place])
        words = [json.loads(arguments) for arguments in each.arguments]
        forbidden = {word for found in words for word in found.get("forbidden_words", [])}
        demanded = {word for found in words for word in [*found.get("keywords", []), found.get("keyword")]}
        assert not forbidden & demanded


# For each kind of instruction an answer that a reader would accept, from its arguments.
ACCEPTED = {
    "keywords:existence": lambda a: " ".join(a["keywords"]),
    "keywords:forbidden_words": lambda a: "nothing of the sort",
    "keywords:frequency": lambda a: f"{a['keyword']} " * a["frequency"],
    "length_constraints:number_words": lambda a: "word " * (a["num_words"] - (a["relation"] == "less than")),
    "length_constraints:number_paragraphs": lambda a: "\n***\n".join(["text"] * a["num_paragraphs"]),
    "detectable_content:number_placeholders": lambda a: "[name] " * a["num_placeholders"],
    "detectable_content:postscript": lambda a: "Text.\n\nP.S. More.",
    "detectable_format:number_bullet_lists": lambda a: "\n".join(["* point"] * a["num_bullets"]),
    "detectable_format:number_highlighted_sections": lambda a: "*this phrase* " * a["num_highlights"],
    "detectable_format:title": lambda a: "<<the title>>\nText.",
    "detectable_format:json_format": lambda a: '{"answer": 1}',
    "combination:two_responses": lambda a: "first\n******\nsecond",
    "startend:end_checker": lambda a: f"Text. {a['end_phrase']}",
    "startend:quotation": lambda a: '"Text."',
    "punctuation:no_comma": lambda a: "no comma here",
    "change_case:english_lowercase": lambda a: "this is all in small letters",
    "change_case:english_capital": lambda a: "THIS IS ALL IN LARGE LETTERS",
    "keywords:letter_frequency": lambda a: a["letter"] * (a["let_frequency"] - (a["let_relation"] == "less than")),
}


def test_every_instruction_can_be_followed_and_missed(made: list[list[Instructed]]) -> None:
    single = [
        Instructed(e.id, e.prompt, [k], [a]) for p in made for e in p for k, a in zip(e.kinds, e.arguments, strict=True)
    ]
    assert {each.kinds[0] for each in single} == ACCEPTED.keys()
    for each in random.Random(1).sample(single, 200):
        answer = ACCEPTED[each.kinds[0]](json.loads(each.arguments[0]))
        assert followed(each, answer) == Followed(each.id, [True], [True]), (each, answer)
        assert followed(each, "").strict == [False]


@pytest.mark.parametrize(("name", "kinds"), [("laptop_ifeval", "trained"), ("laptop_ifeval_new", "new")])
def test_the_benchmarks_hold_the_prompts_that_are_drawn_for_them(name: str, kinds: str) -> None:
    rows = [json.loads(line) for line in (EVAL / f"{name}.jsonl").read_text().splitlines()]
    found = [(row["prompt"], row["instruction_id_list"], row["kwargs"]) for row in rows]
    expected = drawn(FILE, Draw("held_out", kinds, len(rows), 1))
    assert found == [(each.prompt, each.kinds, [json.loads(a) for a in each.arguments]) for each in expected]


def test_more_prompts_than_there_are_is_refused(tmp_path: Path) -> None:
    small = {"instructions": {1: 1.0}, "requests": ["Write about {topic}."], "topics": {"train": {"tea": ["leaf"]}}}
    kinds = [{"kind": "punctuation:no_comma", "text": "No commas.", "arguments": {}}]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small | {"trained": kinds}))
    with pytest.raises(ValueError, match="small.yaml has 1 different prompts of train, 2 are asked for"):
        drawn(tmp_path / "small.yaml", Draw("train", "trained", 2, 1))


def test_answers_are_rated_by_the_share_of_instructions_that_they_follow(tmp_path: Path) -> None:
    kinds, none = ["punctuation:no_comma", "change_case:english_lowercase"], ["{}", "{}"]
    write_records(tmp_path / "instructions.parquet", [Instructed("p", "Write.", kinds, none)])
    prompt = Prompt("p", "train", [{"role": "user", "content": "Write."}])
    texts = {"all of this is small": 1.0, "This has a large letter": 0.5, "This, too": 0.0}
    drawn_answers = [(prompt, seed, Completion("p", prompt.prompt, text, 5, True)) for seed, text in enumerate(texts)]
    cut = (prompt, 9, Completion("p", prompt.prompt, "this is cut in the", 5, False))
    job = Job("reward", "x", "key", {"seeds": [0]}, {}, tmp_path, {"prompts": tmp_path})
    assert [(each.seed, each.reward) for each in by_checkers(job, [*drawn_answers, cut])] == [
        *enumerate(texts.values())
    ]


def test_the_reward_of_a_search_counts_answers_to_held_out_prompts_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of two instructions and, cut, all of one: .75 on average; .5 and 1 have a deviation of .5 / sqrt(2)."""
    asked = {"p": ["punctuation:no_comma", "change_case:english_lowercase"], "q": ["punctuation:no_comma"]}
    write_records(
        tmp_path / "instructions.parquet",
        [Instructed(name, f"Write {name}.", kinds, ["{}"] * len(kinds)) for name, kinds in asked.items()],
    )
    pairs = [Pair(name, [{"role": "user", "content": f"Write {name}."}], "yes", "no") for name in asked]
    write_records(tmp_path / "test.parquet", pairs)
    answers = [Completion("p", pairs[0].prompt, "Large letter", 2, True), Completion("q", [], "cut in the", 3, False)]
    generator = MagicMock()
    generator.return_value.__enter__.return_value.answer.return_value = answers
    for name in ("source_of", "backend_of"):
        monkeypatch.setattr(f"recipes.generate.{name}", lambda job: None)
    monkeypatch.setattr("recipes.generate.Generator", generator)
    settings = {"decoding": {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 8}, "seed": 1}
    inputs = {"model": tmp_path, "pairs": tmp_path, "prompts": tmp_path}
    facts = make_held_out(Job("held_out", "x", "key", settings, {}, tmp_path, inputs))
    assert facts == {"prompts": 2, "reward": 0.75, "standard_error": pytest.approx(0.25)}
    assert read_records(tmp_path / "answers.parquet", Completion) == answers


def test_training_and_test_prompts_of_a_stage(tmp_path: Path) -> None:
    settings = {"file": "laptop_instructions", "prompts": 5, "test_prompts": 3, "seed": 1}
    prompts = own_prompts(Job("prompts", "x", "key", settings, {}, tmp_path, {}))
    assert [each.split for each in prompts] == ["train"] * 5 + ["test"] * 3
    asked = read_records(tmp_path / "instructions.parquet", Instructed)
    assert [(each.id, each.prompt[0]["content"]) for each in prompts] == [(each.id, each.prompt) for each in asked]
