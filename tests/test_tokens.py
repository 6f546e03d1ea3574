"""The tokens contract on templates like those of the project's models."""

import pytest
from transformers import PreTrainedTokenizerBase

from focalpo.data.tokens import (
    Limits,
    demonstration_trees,
    pair_trees,
    prompt_ids,
    read_trees,
    template_hash,
    write_trees,
)
from focalpo.stages.records import Demonstration, Pair
from focalpo.training.scratch import bpe_tokenizer

TEXTS = ["the cat sat on the mat", "a dog ran to the cat", "why? because it can."] * 5
ROLES = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
TEMPLATES = {
    "plain": None,  # BOS in the template, EOS after the assistant
    "zephyr": ROLES + "{{ eos_token + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}",
    "no_end": ROLES + "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}",
    "not_a_prefix": ROLES + "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<system>' }}{% endif %}",
    "two_bos": "{{ bos_token + bos_token }}" + ROLES + "{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}",
}


def build_tokenizer(template: str = "plain") -> PreTrainedTokenizerBase:
    built = bpe_tokenizer(TEXTS)
    built.chat_template = TEMPLATES[template] or built.chat_template
    return built


def pair(prompt: str = "the cat", chosen: str = "sat", rejected: str = "ran to the dog") -> Pair:
    return Pair("p", [{"role": "user", "content": prompt}], chosen, rejected)


def problems(template: str, one: Pair, limits: Limits = Limits(64, 128)) -> dict[str, str]:  # noqa: B008
    tokenizer = build_tokenizer(template)
    return pair_trees(tokenizer, [one], limits, [tokenizer.eos_token_id])[1]


@pytest.mark.parametrize("template", ["plain", "zephyr"])
def test_training_and_generation_see_the_same_prompt_and_the_turn_ends_once(template: str) -> None:
    tokenizer = build_tokenizer(template)
    trees, wrong = pair_trees(tokenizer, [pair()], Limits(64, 128), [tokenizer.eos_token_id])
    assert not wrong
    (tree,) = trees
    assert [tree.prompt] == prompt_ids(tokenizer, [pair().prompt])
    assert tree.prompt.count(tokenizer.bos_token_id) == 1 and tree.prompt[0] == tokenizer.bos_token_id
    for branch, text in (("chosen", "sat"), ("rejected", "ran to the dog")):
        assert tree.branches[branch][-1] == tokenizer.eos_token_id
        assert tree.branches[branch].count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(tree.branches[branch], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "template, message",
    [
        ("no_end", "does not end the assistant's turn with a stop token"),
        ("not_a_prefix", "not an exact token prefix"),
        ("two_bos", "begins with two BOS tokens"),
    ],
)
def test_a_template_that_breaks_the_contract_is_reported(template: str, message: str) -> None:
    assert message in problems(template, pair())["p"]


def test_empty_answers_and_long_prompts_are_rejected() -> None:
    assert problems("plain", pair(chosen=""))["p"] == "the response is empty"
    assert "tokens, longer than max_prompt_length=3" in problems("plain", pair(), Limits(3, 128))["p"]
    prompt = len(prompt_ids(build_tokenizer(), [pair().prompt])[0])
    assert "no response is left" in problems("plain", pair(), Limits(64, prompt))["p"]


def test_a_long_response_is_truncated_at_its_end() -> None:
    tokenizer = build_tokenizer()
    (whole,), _ = pair_trees(tokenizer, [pair()], Limits(64, 128), [tokenizer.eos_token_id])
    (cut,), _ = pair_trees(tokenizer, [pair()], Limits(64, len(whole.prompt) + 2), [tokenizer.eos_token_id])
    assert cut.branches["rejected"] == whole.branches["rejected"][:2]


def test_a_demonstration_is_a_tree_with_one_branch() -> None:
    tokenizer = build_tokenizer()
    example = Demonstration("d", pair().prompt, "sat")
    (tree,), _ = demonstration_trees(tokenizer, [example], Limits(64, 128), [tokenizer.eos_token_id])
    (both,), _ = pair_trees(tokenizer, [pair()], Limits(64, 128), [tokenizer.eos_token_id])
    assert tree.branches == {"chosen": both.branches["chosen"]} and tree.prompt == both.prompt


def test_trees_are_read_back_as_written(tmp_path) -> None:
    tokenizer = build_tokenizer()
    trees, _ = pair_trees(tokenizer, [pair(), pair("a dog", "ran", "sat")], Limits(64, 128), [tokenizer.eos_token_id])
    write_trees(tmp_path / "trees.parquet", trees)
    assert read_trees(tmp_path / "trees.parquet") == trees


def test_the_template_hash_identifies_the_template() -> None:
    plain, again, zephyr = build_tokenizer(), build_tokenizer(), build_tokenizer("zephyr")
    assert template_hash(plain) == template_hash(again) != template_hash(zephyr)
    without = build_tokenizer()
    without.chat_template = None
    with pytest.raises(ValueError, match="has no chat template; set model.chat_template"):
        template_hash(without)
