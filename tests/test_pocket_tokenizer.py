"""Pocket scale's tokenizer, as built and as loaded again from its folder."""

import pytest

from focalpo.pocket import datasets


@pytest.fixture(scope="module", params=["built", "reloaded"])
def tokenizer(request, tmp_path_factory):
    from transformers import AutoTokenizer

    from focalpo.pocket.tokenizer import build_tokenizer

    built = build_tokenizer()
    if request.param == "built":
        return built
    folder = tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_the_tokenizer_keeps_the_tokens_contract(tokenizer):
    known = {token: index for index, token in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<asst>"])}
    assert len(tokenizer) == 185
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in known} == known
    for pair in datasets.base_pairs(200, 0, 0.0):
        prompt = tokenizer.apply_chat_template(pair.prompt, add_generation_prompt=True, return_dict=False)
        answer = [{"role": "assistant", "content": pair.chosen}]
        full = tokenizer.apply_chat_template([*pair.prompt, *answer], return_dict=False)
        assert full[: len(prompt)] == prompt
        assert full.count(known["<bos>"]) == 1 and full[0] == known["<bos>"]
        assert full.count(known["<eos>"]) == 1 and full[-1] == known["<eos>"]
        assert known["<unk>"] not in full
        assert len(full) == len(pair.prompt[0]["content"].split()) + len(pair.chosen.split()) + 4
        assert tokenizer.decode(full[len(prompt) :], skip_special_tokens=True) == pair.chosen
        assert tokenizer.decode(prompt, skip_special_tokens=True) == pair.prompt[0]["content"]


def test_the_chat_template_knows_two_roles_and_the_tokenizer_adds_nothing(tokenizer):
    chat = [{"role": "user", "content": "spell sun"}]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert rendered == "<bos><user> spell sun <asst>"
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == (
        tokenizer(rendered).input_ids
    )
    with pytest.raises(Exception, match="roles user and assistant only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "spell sun"}])
