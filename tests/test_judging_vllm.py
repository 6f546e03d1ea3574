"""A real judge: vLLM's OpenAI server on a CPU, started and stopped by us, called by the real client.

The model is built here and generates `m`, then `[[A>B]]`, then end of sequence after any prompt. Its embeddings are
orthogonal and its layers add nothing, so that its head is a table from one token to the next: a judge with known
verdicts, through real tokens, a real chat template and real logprobs.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from focalpo.judging.alpaca_eval import model_shown_first
from focalpo.judging.dispatch import judge
from focalpo.judging.protocol import Protocol, load_protocol
from focalpo.judging.serving import endpoint_of
from focalpo.scoring.stats import arena_score, value, win_rate
from focalpo.stages.records import Completion, Question
from tests.soak import MARK, leaked

ROOT = Path(__file__).parent.parent
SPECIAL = ("<eos>", "<judge>", "m", "M", "[[A>B]]")
LIKELY, UNLIKELY = 8.0, 6.0
"""Logits of `m` and `M` after the prompt; every other token's is 0."""
PROMPTS = 8
FREE = {
    "input_usd": 0.0, "output_usd": 0.0, "reply_tokens": 1, "seconds_per_request": 0.0, "seconds_per_reply_token": 0.0,
}  # fmt: skip


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the words that the judge generates."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", "<judge>"])
    tokenizer.add_tokens([AddedToken("[[A>B]]", normalized=False)])
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}<judge>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", chat_template=template)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = build_tokenizer()
    size = 512  # at least one orthogonal direction per token
    eos, start, m, other, verdict = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            eos_token_id=eos,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        network.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        network.lm_head.weight.zero_()
        length = size**0.5  # the norm of the head's input
        for now, after, logit in (
            (start, m, LIKELY),
            (start, other, UNLIKELY),
            (m, verdict, 40.0),
            (verdict, eos, 40.0),
        ):
            network.lm_head.weight[after, now] = logit / length
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path) -> dict:
    server = f"vllm {model} --served-model-name local-judge --dtype float32 --max-model-len 8192 --enforce-eager"
    return {
        "base_url": server, "api_key_env": None, "concurrency": 4, "timeout_seconds": 60.0, "max_attempts": 3,
        "price": FREE, "budget_usd": None,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM on a CPU reserves nearly all of the machine's memory unless this sets a size, in GiB."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


def pairs(name: str) -> tuple[list[Question], list[Completion], Protocol]:
    questions = [
        Question(str(n), [{"role": "user", "content": f"question {n}"}], f"answer {n}") for n in range(PROMPTS)
    ]
    answers = [Completion(q.id, q.prompt, f"another {q.id}", 3, True) for q in questions]
    return questions, answers, replace(load_protocol(ROOT / f"eval/{name}.yaml"), prompts=PROMPTS)


def servers() -> list[str]:
    """The command lines of all vLLM servers running on this machine."""
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode(errors="replace") for line in found if b"vllm.entrypoints.openai.api_server" in line]


@pytest.mark.vllm
def test_a_served_model_judges_both_benchmarks_and_its_server_stops_afterwards(model: Path, tmp_path: Path) -> None:
    with endpoint_of(settings(model), tmp_path / "records.jsonl") as endpoint:
        assert len([line for line in servers() if str(model) in line]) == 1
        alpaca = pairs("alpaca_eval_2_local")
        verdicts = judge(*alpaca, endpoint)
        games = judge(*pairs("arena_hard_v0_1_local"), endpoint)
    assert not [line for line in servers() if str(model) in line]
    assert (endpoint.counts.failed, endpoint.counts.retried) == (0, 0)

    # It generates `m`, the answer shown first, with probability sigmoid(8 - 6).
    first = 1 / (1 + torch.exp(torch.tensor(UNLIKELY - LIKELY, dtype=torch.float64)).item())
    shown = [model_shown_first(question.prompt[-1]["content"]) for question in alpaca[0]]
    expected = [first if model_first else 1 - first for model_first in shown]
    assert len(set(shown)) == 2
    assert [verdict.preference - 1 for verdict in verdicts] == pytest.approx(expected, abs=1e-4)
    preferences = torch.tensor([[verdict.preference for verdict in verdicts]]).numpy()
    assert value(win_rate(preferences)) == pytest.approx(100 * sum(expected) / PROMPTS, abs=1e-2)
    # Always A wins: the baseline in the first game, the model in the second.
    assert [(game.verdict, game.result) for game in games] == [("A>B", 0.0), ("A>B", 1.0)] * PROMPTS
    results = torch.tensor([[[game.result for game in games[n : n + 2]] for n in range(0, 2 * PROMPTS, 2)]]).numpy()
    assert value(arena_score(results, torch.ones(1, PROMPTS, 2).numpy())) == 50.0


SERVE = """
import sys, time
from pathlib import Path
from focalpo.judging.serving import address_of

with address_of(sys.argv[1]):
    Path(sys.argv[2]).write_text("ready")
    time.sleep(600)
"""


@pytest.mark.vllm
def test_a_killed_stage_takes_its_server_with_it(model: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", SERVE, settings(model)["base_url"], str(ready)]
    stage = subprocess.Popen(command, cwd=ROOT, env=os.environ | {MARK: str(tmp_path)})
    deadline = time.monotonic() + 300
    while not ready.exists() and time.monotonic() < deadline:
        assert stage.poll() is None
        time.sleep(0.1)
    assert [line for line in servers() if str(model) in line]
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait()
    assert leaked(str(tmp_path)) == [], "the engine, a child process of the server under another name, must stop too"


def test_a_server_that_cannot_start_gives_one_line_and_vllm_requires_a_model(tmp_path: Path) -> None:
    arguments = settings(tmp_path) | {"base_url": "vllm"}
    with pytest.raises(ValueError, match="names no model; write it as 'vllm MODEL ARGUMENTS'"):
        with endpoint_of(arguments, tmp_path / "records.jsonl"):
            pass
    with pytest.raises(ValueError, match="the pocket judge did not start: .*--faults") as error:
        with endpoint_of(arguments | {"base_url": "pocket --faults nonsense=2"}, tmp_path / "records.jsonl"):
            pass
    assert "\n" not in str(error.value)
