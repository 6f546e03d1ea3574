"""Soft caps, sliding windows and scaled logits, packed: the log-probs and gradients of eager padded Hugging Face."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from focalpo.answering.decoding import NAME, decode
from focalpo.answering.engine import Decoding
from focalpo.answering.rewarding import RewardModel
from focalpo.data.trees import Tree
from focalpo.training import attention, layout, logprobs
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.model import ModelSource, load_model
from focalpo.training.packing import pack
from tests.test_logprobs import BRANCHES, padded_logps, weighted_gradients
from tests.tiny import VOCABULARY, chatml_tokenizer, random_trees

WINDOW = 7  # random trees have up to 48 tokens, prompts and responses up to 24
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GEMMA2 = {"head_dim": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
MIXED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}  # layer 1 slides, layer 0 not
"""Each family with what sets it apart, in force, and the same without it, which must be another function."""
FAMILIES = {
    "gemma2": (GEMMA2 | {"sliding_window": WINDOW}, GEMMA2 | {"sliding_window": 4096}),
    "gemma2 capped scores": (GEMMA2, GEMMA2 | {"attn_logit_softcapping": None}),
    "gemma2 capped logits": (GEMMA2, GEMMA2 | {"final_logit_softcapping": None}),
    "gemma2 scalar": (GEMMA2, GEMMA2 | {"query_pre_attn_scalar": 8}),
    "mistral": ({"sliding_window": WINDOW}, {"sliding_window": None}),
    "qwen2": (MIXED, {"use_sliding_window": False}),
    "qwen3": (MIXED | {"head_dim": 8}, {"use_sliding_window": False}),
    "cohere": ({"logit_scale": 0.3}, {"logit_scale": 1.0}),
    "cohere2": ({"logit_scale": 0.3, "sliding_window": WINDOW}, {"sliding_window": 4096}),
    "granite": ({"logits_scaling": 3.0}, {"logits_scaling": 1.0}),
    "hyperclovax": ({"logits_scaling": 0.3}, {"logits_scaling": 1.0}),
}


def model_of(family: str, **settings: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.partition(" ")[0], **SHAPE | settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("small_tree, chunk, kept", [(1 << 30, 1 << 23, 1 << 26), (0, 5 * 97, 0)])
def test_packed_equals_padded_in_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch, family: str, small_tree: int, chunk: int, kept: int
) -> None:
    """Whole trees under a mask and segment by segment; all logits kept, and recomputed in chunks."""
    monkeypatch.setattr(layout, "SMALL_TREE", small_tree)
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", chunk)
    monkeypatch.setattr(logprobs, "KEPT_LOGITS", kept)
    trees, (settings, without) = random_trees(6, seed=3), FAMILIES[family]
    reference = model_of(family, **settings)
    expected = padded_logps(reference, trees)
    with torch.no_grad():
        assert (padded_logps(model_of(family, **settings | without), trees) - expected).abs().max() > 0.1
    policy = PackedPolicy(model_of(family, **settings))
    found = policy(pack(trees, BRANCHES))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [weighted_gradients(m, logps) for m, logps in ((reference, expected), (policy.model, found))]
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1, float(theirs.abs().max())), rtol=0)


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_greedy_answers_are_those_of_eager_hugging_face(family: str) -> None:
    """Prompts of two lengths in one batch, so one is padded; more tokens than the window has."""
    model, eager = (model_of(family, **FAMILIES[family][0]).eval() for _ in range(2))
    model.set_attn_implementation(NAME)
    prompts = [[5, 6, 9], [8, 3, 4, 7, 11, 2, 10, 12, 15]]
    found = decode(model, list(enumerate(prompts)), Decoding(0.0, 1.0, 9), [0], stops=[1])
    for prompt, (answer,) in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits = eager(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert answer == logits.argmax(-1).tolist()


def test_a_cap_of_the_scores_survives_loading(tmp_path: Path) -> None:
    """transformers' default kernel leaves it out; agreement with vLLM is checked on a model that was just loaded."""
    made = model_of("gemma2", **GEMMA2)
    made.save_pretrained(tmp_path)
    row = torch.tensor([[5, 6, 9, 8]])
    with torch.no_grad():
        found, expected = load_model(ModelSource(str(tmp_path)), "float32")(row).logits, made(row).logits
        made.set_attn_implementation("sdpa")
        assert (made(row).logits - expected).abs().max() > 1e-3
    torch.testing.assert_close(found, expected)


def test_a_cap_survives_in_a_reward_model(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gemma2", **SHAPE | GEMMA2 | {"vocab_size": 300, "num_labels": 1})
    made = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, attn_implementation="eager")
    made.save_pretrained(tmp_path)
    chatml_tokenizer().save_pretrained(tmp_path)
    own = RewardModel(str(tmp_path), None, "float32", own_code=False)
    row = [5, 6, 9, 8, 7, 4]
    with torch.no_grad():
        capped = float(made.eval()(torch.tensor([row])).logits)
        made.set_attn_implementation("sdpa")
        assert abs(float(made(torch.tensor([row])).logits) - capped) > 1e-3
    assert own._scores([row]) == pytest.approx([capped], abs=1e-5)


def test_a_window_by_hand() -> None:
    """Prompt of rows 0-2, branches of rows 3-4 and 5-6; the second branch stands two rows further from its prompt."""
    layout = pack([Tree("t", [1, 2, 3], {"chosen": [4, 5], "rejected": [6, 7]})], BRANCHES).layout
    (group,) = layout.groups(3)
    assert group.keys.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    seen = [[row for row in range(7) if group.visible[0, 0, query, row]] for query in range(7)]
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [1, 2, 5], [2, 5, 6]]
    assert layout.narrowed(5) is None and layout.narrowed(4) == 4, "no sequence has more than 5 tokens"


@pytest.mark.parametrize(
    "family, settings, words",
    [
        ("llama", {"lm_head_multiplier": 2.0}, r"llama rescales its logits \(lm_head_multiplier\) in a way"),
        ("llama", {"logit_scale": 2.0}, r"llama rescales its logits \(logit_scale\) in a way"),
        ("llama", {"layer_types": ["full_attention", "chunked_attention"]}, "llama has layers of chunked_attention"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(family: str, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}.*; choose another model"):
        PackedPolicy(model_of(family, **settings))


@pytest.mark.parametrize("family", ["bloom", "rwkv"])
def test_layers_that_would_see_other_trees_are_refused(family: str) -> None:
    """They compute attention themselves and ignore `attn_implementation`."""
    policy = PackedPolicy(model_of(family))
    with pytest.raises(ValueError, match=f"the layers of {family} have an attention of their own; choose another"):
        policy(pack([Tree("t", [1], {"chosen": [4], "rejected": [6]})], BRANCHES))


def test_attention_with_sinks_is_refused_by_name() -> None:
    module, states = torch.nn.Identity(), torch.zeros(1, 2, 3, 4)
    layout = pack([Tree("t", [1], {"chosen": [4], "rejected": [6]})], BRANCHES).layout
    with pytest.raises(ValueError, match="Identity needs s_aux.*; choose another model"):
        attention.packed_attention(module, states, states, states, None, 1.0, layout, s_aux=torch.zeros(2))


def test_a_window_that_a_model_keeps_from_its_attention_bounds_the_sequences() -> None:
    """Such models narrow only the mask that transformers builds, which packed attention does not have."""
    policy = PackedPolicy(model_of("phimoe", sliding_window=WINDOW, num_local_experts=2))
    short, long = (Tree("t", [5] * 4, {"chosen": [6] * length}) for length in (WINDOW - 4, WINDOW - 3))
    policy(pack([short], ("chosen",)))
    with pytest.raises(ValueError, match="phimoe does not tell its attention .* of 7, .* 8 tokens; lower data.max_len"):
        policy(pack([long], ("chosen",)))
