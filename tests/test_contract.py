"""The token contract refuses other templates, no or two BOS, no stop token, and special tokens in text."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from focalpo.answering import contract
from focalpo.answering.contract import check_answers, check_prompts, check_template, compare_logprobs, difference
from focalpo.data.tokens import template_hash
from focalpo.pocket.tokenizer import build_tokenizer
from focalpo.training.model import ModelSource
from tests.tiny import VOCABULARY, tiny_model

PROMPTS = {"q1": [{"role": "user", "content": "sort : kite pig"}]}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


def test_the_template_of_the_checkpoint_must_be_the_tokenizers(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "focalpo.json").write_text(f'{{"chat_template_sha256": "{template_hash(tokenizer)}"}}')
    check_template(tmp_path, tokenizer)
    tokenizer.chat_template += " "
    with pytest.raises(ValueError, match="was trained with chat template .*; restore the template or train again"):
        check_template(tmp_path, tokenizer)


def test_prompts_of_the_pocket_model_keep_the_contract(tokenizer: PreTrainedTokenizerBase) -> None:
    check_prompts(tokenizer, PROMPTS, [tokenizer.eos_token_id], "pocket")


def test_a_stop_token_that_the_template_never_writes_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"contract of pocket \(1 row \(q1\): the template does not end"):
        check_prompts(tokenizer, PROMPTS, [tokenizer.pad_token_id], "pocket")


def test_two_bos_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = tokenizer.bos_token + tokenizer.bos_token + tokenizer.chat_template
    with pytest.raises(ValueError, match="begins with two BOS tokens"):
        check_prompts(tokenizer, PROMPTS, [tokenizer.eos_token_id], "pocket")


def test_an_answer_that_goes_on_after_the_eos_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    """Decoded, it would be the answer with what the model said next: "a kite is a toyuser asks"."""
    end, other = tokenizer.eos_token_id, tokenizer.pad_token_id
    answers = [[7, 8, other], [7, end, 8, other]]
    check_answers(tokenizer, [end, other], answers)
    check_answers(tokenizer, [other], answers[:1])
    with pytest.raises(ValueError, match="1 of 2 answers go on after <eos>, .*; add it to model.stop_tokens"):
        check_answers(tokenizer, [other], answers)


def test_the_difference_of_logprobs_by_hand() -> None:
    report = difference([[-1.0, -2.0], [-3.0]], [[-1.0, -2.5], [-2.0]])
    assert (report.rows, report.tokens, report.mean, report.largest) == (2, 3, 0.5, 1.0)
    cut = difference([[-1.0, -2.0], [-3.0, -9.0]], [[-1.0, -2.5], [-2.0]])  # an answer that fills the model's window
    assert cut == report


def test_logprobs_cover_the_answer_tokens_and_a_difference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one softmax over the whole row, written out; 0.002 on average is too much in float32."""
    model = tiny_model()
    monkeypatch.setattr(contract, "load_model", lambda source, dtype, to: model)
    rows = [([1, 5, 9], [7, 2]), ([1, 4], [VOCABULARY - 1, 3, 2])]
    expected = []
    for prompt, answer in rows:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].detach()
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        expected.append([float(logits[p, t] - logits[p].logsumexp(0)) for p, t in zip(places, answer, strict=True)])
    report = compare_logprobs(ModelSource("tiny"), "float32", rows, expected)
    assert report["tokens"] == 5 and report["largest"] < 1e-5
    shifted = [[value + 0.002 for value in row] for row in expected]
    with pytest.raises(ValueError, match="disagree on 5 answer tokens of tiny by 0.0020 nats"):
        compare_logprobs(ModelSource("tiny"), "float32", rows, shifted)
    with pytest.raises(ValueError, match="by nan nats"):
        compare_logprobs(ModelSource("tiny"), "float32", rows, [[float("nan"), *expected[0][1:]], expected[1]])
    assert compare_logprobs(ModelSource("tiny"), "bfloat16", rows, shifted)["mean"] == pytest.approx(0.002, abs=1e-5)
