"""Generation: batching, stopping and sampling, and the same answers from both backends."""

import importlib.util
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from focalpo.answering.contract import compare_logprobs
from focalpo.answering.engine import Backend, Decoding
from focalpo.answering.generation import KEPT_ROWS, Generator
from focalpo.answering.hugging_face import by_length
from focalpo.answering.vllm_engine import gpu_shares
from focalpo.config.compose import compose
from focalpo.pocket.datasets import as_messages, preference_tasks
from focalpo.pocket.tokenizer import build_tokenizer
from focalpo.stages.records import Completion
from focalpo.training.checkpoint import model_card
from focalpo.training.model import ModelSource, generation_config
from focalpo.training.scratch import new_model

GREEDY = Decoding(temperature=0, top_p=1.0, max_new_tokens=12)
PROMPTS = [as_messages(task.prompt) for task in preference_tasks(24, seed=7)]
NAMES = [str(place) for place in range(len(PROMPTS))]


def pocket_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The untrained pocket model, with weights large enough that its greedy choices are not near-ties."""
    architecture = compose([]).model.architecture
    assert architecture is not None
    return new_model(replace(architecture, initializer_range=0.2), tokenizer, seed=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pocket_model(tmp_path_factory.mktemp("model"))


def write_pocket_model(folder: Path) -> Path:
    """Write the pocket model and its tokenizer as the engine does it."""
    tokenizer = build_tokenizer()
    made = pocket_model(tokenizer)
    made.generation_config = generation_config(tokenizer, [tokenizer.eos_token_id])
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def generator(model: Path, backend: str = "hf", max_batch_tokens: int = 1 << 14) -> Generator:
    return Generator(ModelSource(str(model)), Backend(backend, "float32", 1, 1, max_batch_tokens))


def answers(made: Generator, decoding: Decoding = GREEDY, seed: int = 1) -> list[Completion]:
    return made.answer(NAMES, PROMPTS, decoding, seed)


def test_greedy_answers_are_argmax_continuations_of_the_prompt_alone(model: Path) -> None:
    made = generator(model)
    weights = pocket_model(made.tokenizer)
    for completion in answers(made)[:6]:
        text = made.tokenizer.apply_chat_template(completion.prompt, tokenize=False, add_generation_prompt=True)
        row = made.tokenizer(text, add_special_tokens=False)["input_ids"]
        found: list[int] = []
        while len(found) < 12 and made.stops[0] not in found:
            found.append(int(weights(torch.tensor([row + found])).logits[0, -1].argmax()))
        finished = found[-1] in made.stops
        expected = found[:-1] if finished else found
        assert (completion.tokens, completion.finished) == (len(expected), finished)
        assert completion.text == made.tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_batches_do_not_change_greedy_answers(model: Path) -> None:
    assert answers(generator(model)) == answers(generator(model, max_batch_tokens=60))


def test_batches_hold_similar_lengths_and_stay_within_the_budget() -> None:
    prompts = [[0] * length for length in (3, 9, 4, 9, 1)]
    assert by_length(prompts, new_tokens=1, samples=1, budget=20) == [[1, 3], [2, 0, 4]]
    assert by_length(prompts, new_tokens=1, samples=2, budget=20) == [[1], [3], [2, 0], [4]]


def test_sampling_is_seeded_and_differs_between_seeds(model: Path) -> None:
    made, warm = generator(model), Decoding(temperature=1.0, top_p=1.0, max_new_tokens=12)
    assert answers(made, warm, seed=1) == answers(made, warm, seed=1) != answers(made, warm, seed=2)


def test_answers_keep_the_order_of_their_prompts(model: Path) -> None:
    found = answers(generator(model, max_batch_tokens=60))
    assert [completion.id for completion in found] == NAMES
    assert [completion.prompt for completion in found] == PROMPTS


def test_a_missing_model_is_reported_in_one_line_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*nowhere.* run its stage first"):
        generator(tmp_path / "nowhere")


def test_a_model_card_documents_how_the_weights_were_made() -> None:
    card = model_card("dpo-s1", {"objective": {"name": "dpo", "beta": 0.1}}, "start/model")
    assert "tags: [preference-optimization, dpo]" in card and '"beta": 0.1' in card and "start/model" in card


@pytest.mark.parametrize(
    "visible, replicas, each, shares",
    [
        (None, 2, 2, ["0,1", "2,3"]),
        ("4,5,6,7", 2, 2, ["4,5", "6,7"]),
        ("6, 2,5", 2, 1, ["6", "2"]),
        ("GPU-ab,MIG-cd", 2, 1, ["GPU-ab", "MIG-cd"]),
        ("", 2, 1, ["", ""]),
        ("-1", 1, 1, ["-1"]),
    ],
)
def test_replicas_share_the_gpus_that_the_process_was_given(visible, replicas, each, shares) -> None:
    assert gpu_shares(visible, replicas, each) == shares


def test_more_replicas_than_gpus_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="=4,5,6 gives 3 GPUs, 2 replicas of 2 need 4; lower generate.data_parallel"):
        gpu_shares("4,5,6", 2, 2)


def test_a_missing_vllm_is_reported_in_one_line(model: Path) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed here; `make test-vllm` runs it")
    with pytest.raises(ValueError, match="install the vllm extra or set generate.backend=hf"):
        generator(model, "vllm")


@pytest.mark.vllm
def test_vllm_and_hugging_face_give_the_same_greedy_answers(model: Path) -> None:
    with generator(model, "vllm") as made:
        assert answers(made) == answers(generator(model))


@pytest.mark.vllm
def test_vllm_sampling_is_seeded(model: Path) -> None:
    warm = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=12)
    with generator(model, "vllm") as made:
        assert answers(made, warm, seed=1) == answers(made, warm, seed=1) != answers(made, warm, seed=2)


def test_the_first_rows_are_kept_as_ids_with_their_stop_token(model: Path) -> None:
    made = generator(model)
    found = answers(made)
    assert len(made.first_rows) == len(NAMES) <= KEPT_ROWS
    for (prompt, answer), completion in zip(made.first_rows, found, strict=True):
        assert (answer[-1] in made.stops) == completion.finished
        assert len(answer) == completion.tokens + completion.finished
        assert made.tokenizer.decode(prompt).startswith(made.tokenizer.bos_token or "")
    answers(made), answers(made), answers(made)
    assert len(made.first_rows) == KEPT_ROWS


@pytest.mark.vllm
def test_vllm_and_hugging_face_agree_on_logprobs_and_another_prompt_is_detected(model: Path) -> None:
    """64 rows; with a second BOS in the prompts for Hugging Face, the contract stops the stage."""
    with generator(model, "vllm") as made:
        for seed in (1, 2, 3):
            answers(made, Decoding(temperature=1.0, top_p=1.0, max_new_tokens=12), seed)
        rows, source = made.first_rows, ModelSource(str(model))
        assert made.engine.logprobs is not None
        found = made.engine.logprobs(rows)
        window = AutoConfig.from_pretrained(model).max_position_embeddings
        full = (rows[0][0], [7] * (window - len(rows[0][0])))  # as an endless answer, cut where the model ends
        assert [len(logprobs) for logprobs in made.engine.logprobs([full])] == [len(full[1]) - 1]
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children(), "vLLM's process would hold memory that the same weights need again"
    report = compare_logprobs(source, "float32", rows, found)
    assert report["rows"] == 64 and report["tokens"] == sum(len(answer) for _, answer in rows)
    print(report)
    twice = [([prompt[0], *prompt], answer) for prompt, answer in rows]
    with pytest.raises(ValueError, match="vLLM and Hugging Face disagree"):
        compare_logprobs(source, "float32", twice, found)
