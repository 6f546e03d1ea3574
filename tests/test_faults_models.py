"""Model folders that are broken in one file each: one line with the folder and a remedy, never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, LlamaConfig

from focalpo.answering.rewarding import RewardModel
from focalpo.pocket.tokenizer import build_tokenizer
from focalpo.training import jobs
from focalpo.training.loading import explaining_load
from focalpo.training.model import ModelSource, load_model, load_tokenizer
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "intact"
    tokenizer = build_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "model"))


def edited(name: str, **values: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))

    return edit


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def removed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


MODELS: dict[str, Callable[[Path], object]] = {
    "missing": shutil.rmtree,
    "no config": removed("config.json"),
    "config of half a JSON": written("config.json", b'{"model_type": "ll'),
    "config not UTF-8": written("config.json", b"\xff\xfe{"),
    "config that is a list": written("config.json", b"[]"),
    "unknown kind": edited("config.json", model_type="nothing"),
    "text for a number": edited("config.json", num_hidden_layers="two"),
    "another width": edited("config.json", intermediate_size=48),
    "no weights": removed("model.safetensors"),
    "empty weights": written("model.safetensors", b""),
    "cut off weights": cut_off,
    "one weight missing": without_a_weight,
}
TOKENIZERS: dict[str, Callable[[Path], object]] = {
    "missing": shutil.rmtree,
    "half a JSON": written("tokenizer.json", b'{"model": '),
    "another JSON": written("tokenizer.json", b'{"model": {}}'),
    "a list": written("tokenizer.json", b"[]"),
    "its config of half a JSON": written("tokenizer_config.json", b'{"a'),
    "its config a list": written("tokenizer_config.json", b"[]"),
    "its config not UTF-8": written("tokenizer_config.json", b"\xff"),
}


def line_of(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and "; " in text, text
    return text


@pytest.mark.parametrize("damage", MODELS.values(), ids=MODELS.keys())
def test_a_broken_model_is_one_line(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    assert str(folder) in line_of(lambda: load_model(ModelSource(str(folder)), "float32"))


@pytest.mark.parametrize("damage", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_a_broken_tokenizer_is_one_line(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    assert str(folder) in line_of(lambda: load_tokenizer(ModelSource(str(folder))))


def test_a_weight_that_is_in_no_file_is_not_drawn_at_random(folder: Path) -> None:
    without_a_weight(folder)
    with pytest.raises(ValueError, match=r"no weights for 1 of its parameters \(model.layers.1.mlp.up_proj.weight"):
        load_model(ModelSource(str(folder)), "float32")


def test_a_model_without_a_score_is_no_reward_model(folder: Path) -> None:
    """transformers would give it a random head, and every pair would be labelled by chance."""
    with pytest.raises(ValueError, match=r"reward model .* has no weights for 1 of its parameters \(score.weight"):
        RewardModel(str(folder), None, "float32", own_code=False)


REQUEST = httpx2.Request("GET", "https://huggingface.co/x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx2.ConnectError("no route", request=REQUEST), "check the network, then run again"),
        (httpx2.ReadTimeout("slow", request=REQUEST), "check the network, then run again"),
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (PermissionError(13, "Permission denied"), "make it readable for this user"),
        (OSError(28, "No space left on device"), "free some space"),
        (KeyError("vocab"), "KeyError 'vocab'"),
    ],
)
def test_what_a_download_raises_has_its_own_remedy(error: Exception, words: str, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(jobs, "hf_hub_download", fails)
    text = line_of(lambda: jobs.unpinned(ModelSource("me/mine")))
    assert text.startswith("cannot load me/mine: ") and words in text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory"), AssertionError("ours")])
def test_errors_of_the_machine_and_our_own_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)), explaining_load("x"):
        raise error


@pytest.mark.parametrize("bos", [None, 1])
def test_a_reward_model_without_a_pad_token_scores_batches_as_one_by_one(tmp_path: Path, bos: int | None) -> None:
    """transformers refuses such a batch; alone, each row is scored at its last token, whatever that is."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **shape, vocab_size=len(tokenizer), num_labels=1, pad_token_id=None, bos_token_id=bos, initializer_range=0.3
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved.get("pad_token_id") is None
    words = ["ant", "bird", "cat bird", "ant ant ant", "dog", "cat"]
    prompts = [[{"role": "user", "content": f"sort : {word}"}] for word in words]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = []
    for prompt, word in zip(prompts, words, strict=True):
        turns = [*prompt, {"role": "assistant", "content": word}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        with torch.no_grad():
            row = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            expected.append(float(plain(row).logits))
    own = RewardModel(str(tmp_path), None, "float32", own_code=False)
    for batch_tokens in (1, 4096):
        assert own.scores(prompts, words, batch_tokens) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) > 3
