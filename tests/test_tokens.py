"""The tokens contract on templates like those of the project's models."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerBase

from focalpo.data.tokens import Tokenised, demonstration_trees, pair_trees, prompt_ids, template_hash
from focalpo.data.trees import Tree, read_trees, write_trees
from focalpo.data.truncation import Limits
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


LIMITS = Limits(64, 128, "keep_prompt")


def tokenised(template: str, *pairs: Pair, limits: Limits = LIMITS) -> Tokenised:
    tokenizer = build_tokenizer(template)
    return pair_trees(tokenizer, pairs, limits, [tokenizer.eos_token_id])


def lists(tree: Tree) -> tuple[str, list[int], dict[str, list[int]]]:
    return tree.id, tree.prompt.tolist(), {branch: ids.tolist() for branch, ids in tree.branches.items()}


@pytest.mark.parametrize("template", ["plain", "zephyr"])
def test_training_and_generation_see_the_same_prompt_and_the_turn_ends_once(template: str) -> None:
    tokenizer = build_tokenizer(template)
    found = tokenised(template, pair())
    assert not found.problems
    _, prompt, branches = lists(*found.trees)
    assert [prompt] == prompt_ids(tokenizer, [pair().prompt])
    assert prompt.count(tokenizer.bos_token_id) == 1 and prompt[0] == tokenizer.bos_token_id
    for branch, text in (("chosen", "sat"), ("rejected", "ran to the dog")):
        assert branches[branch][-1] == tokenizer.eos_token_id
        assert branches[branch].count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(branches[branch], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "template, message",
    [
        ("no_end", "does not end the assistant's turn with a stop token"),
        ("not_a_prefix", "not an exact token prefix"),
        ("two_bos", "begins with two BOS tokens"),
    ],
)
def test_a_template_that_breaks_the_contract_is_reported(template: str, message: str) -> None:
    assert message in tokenised(template, pair()).problems["p"]


def test_empty_answers_and_long_prompts_are_rejected() -> None:
    for nothing in ("", "  ", "\n"):
        assert tokenised("plain", pair(chosen=nothing)).problems["p"] == "the response is empty"
    long = tokenised("plain", pair(), limits=Limits(3, 128, "keep_prompt")).problems["p"]
    assert "tokens, longer than max_prompt_length=3" in long
    prompt = len(prompt_ids(build_tokenizer(), [pair().prompt])[0])
    full = tokenised("plain", pair(), limits=Limits(64, prompt, "keep_prompt")).problems["p"]
    assert full == f"no response is left within max_length: {prompt} of {prompt} are the prompt"


def test_a_demonstration_is_a_tree_with_one_branch() -> None:
    tokenizer = build_tokenizer()
    example = Demonstration("d", pair().prompt, "sat")
    (tree,) = demonstration_trees(tokenizer, [example], LIMITS, [tokenizer.eos_token_id]).trees
    _, prompt, branches = lists(*tokenised("plain", pair()).trees)
    assert lists(tree) == ("d", prompt, {"chosen": branches["chosen"]})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_trees_are_read_back_as_written_and_as_arrays(tmp_path, count: int) -> None:
    trees = tokenised("plain", *[pair("a dog" * place, "ran", "sat" * place) for place in range(1, 1 + count)]).trees
    write_trees(tmp_path / "trees.parquet", trees)
    read = read_trees(tmp_path / "trees.parquet")
    assert list(map(lists, read)) == list(map(lists, trees))
    assert all(ids.dtype == np.int32 for tree in read for ids in (tree.prompt, *tree.branches.values()))


def test_a_tree_that_was_read_costs_its_ids_and_a_little_more(tmp_path) -> None:
    """4 bytes a token and about 500 a tree for its objects; Python lists of Python ints took 30 bytes a token more."""
    ids = np.arange(100_000, 100_300, dtype=np.int32)
    write_trees(tmp_path / "t.parquet", [Tree(str(n), ids, {"chosen": ids, "rejected": ids}) for n in range(400)])
    read_trees(tmp_path / "t.parquet")  # what is loaded once is not counted
    tracemalloc.start()
    before = pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0]
    trees = read_trees(tmp_path / "t.parquet")
    used = pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sum(map(len, trees)) == 400 * 900
    assert used / 400 < 900 * 4 + 1200


def test_the_template_hash_identifies_the_template() -> None:
    plain, again, zephyr = build_tokenizer(), build_tokenizer(), build_tokenizer("zephyr")
    assert template_hash(plain) == template_hash(again) != template_hash(zephyr)
    without = build_tokenizer()
    without.chat_template = None
    with pytest.raises(ValueError, match="has no chat template; set model.chat_template"):
        template_hash(without)
