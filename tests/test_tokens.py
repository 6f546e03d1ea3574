"""The tokens contract on templates of the shapes that the project's models have."""

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


def tokenizer(template: str = "plain") -> PreTrainedTokenizerBase:
    found = bpe_tokenizer(TEXTS)
    found.chat_template = TEMPLATES[template] or found.chat_template
    return found


def pair(prompt: str = "the cat", chosen: str = "sat", rejected: str = "ran to the dog") -> Pair:
    return Pair("p", [{"role": "user", "content": prompt}], chosen, rejected)


def problems(template: str, one: Pair, limits: Limits = Limits(64, 128)) -> dict[str, str]:  # noqa: B008
    made = tokenizer(template)
    return pair_trees(made, [one], limits, [made.eos_token_id])[1]


@pytest.mark.parametrize("template", ["plain", "zephyr"])
def test_training_and_generation_see_the_same_prompt_and_the_turn_ends_once(template: str) -> None:
    made = tokenizer(template)
    trees, wrong = pair_trees(made, [pair()], Limits(64, 128), [made.eos_token_id])
    assert not wrong
    (tree,) = trees
    assert [tree.prompt] == prompt_ids(made, [pair().prompt])
    assert tree.prompt.count(made.bos_token_id) == 1 and tree.prompt[0] == made.bos_token_id
    for branch, text in (("chosen", "sat"), ("rejected", "ran to the dog")):
        assert tree.branches[branch][-1] == made.eos_token_id
        assert tree.branches[branch].count(made.eos_token_id) == 1
        assert made.decode(tree.branches[branch], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "template, said",
    [
        ("no_end", "does not end the assistant's turn with a stop token"),
        ("not_a_prefix", "not an exact token prefix"),
        ("two_bos", "2 BOS tokens, expected exactly one"),
    ],
)
def test_a_template_that_breaks_the_contract_is_named(template: str, said: str) -> None:
    assert said in problems(template, pair())["p"]


def test_empty_answers_and_long_prompts_are_refused() -> None:
    assert problems("plain", pair(chosen=""))["p"] == "the response is empty"
    assert "longer than max_prompt_length=3" in problems("plain", pair(), Limits(3, 128))["p"]
    prompt = len(prompt_ids(tokenizer(), [pair().prompt])[0])
    assert "no response is left" in problems("plain", pair(), Limits(64, prompt))["p"]


def test_a_long_response_keeps_its_beginning() -> None:
    made = tokenizer()
    (whole,), _ = pair_trees(made, [pair()], Limits(64, 128), [made.eos_token_id])
    (cut,), _ = pair_trees(made, [pair()], Limits(64, len(whole.prompt) + 2), [made.eos_token_id])
    assert cut.branches["rejected"] == whole.branches["rejected"][:2]


def test_a_demonstration_is_a_tree_with_one_branch() -> None:
    made = tokenizer()
    example = Demonstration("d", pair().prompt, "sat")
    (tree,), _ = demonstration_trees(made, [example], Limits(64, 128), [made.eos_token_id])
    (both,), _ = pair_trees(made, [pair()], Limits(64, 128), [made.eos_token_id])
    assert tree.branches == {"chosen": both.branches["chosen"]} and tree.prompt == both.prompt


def test_trees_survive_their_file(tmp_path) -> None:
    made = tokenizer()
    trees, _ = pair_trees(made, [pair(), pair("a dog", "ran", "sat")], Limits(64, 128), [made.eos_token_id])
    write_trees(tmp_path / "trees.parquet", trees)
    assert read_trees(tmp_path / "trees.parquet") == trees


def test_the_template_hash_names_the_template() -> None:
    assert template_hash(tokenizer()) == template_hash(tokenizer()) != template_hash(tokenizer("zephyr"))
    without = tokenizer()
    without.chat_template = None
    with pytest.raises(ValueError, match="has no chat template; set model.chat_template"):
        template_hash(without)
