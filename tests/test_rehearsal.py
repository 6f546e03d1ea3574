"""The rehearsal is the paper scale: it differs only in hardware and endpoints, and its stand-ins match the originals.

`make rehearse` runs all of it; here a row of the base setting, released checkpoints of both, a row of one GPU, and the
parts that need no vLLM.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from focalpo.config.compose import CONF, compose, compose_table
from focalpo.data.tokens import pair_trees, prompt_ids
from focalpo.data.truncation import Limits
from focalpo.planning.slices import benchmarks
from focalpo.planning.table import compose_rows, with_rows
from focalpo.stages.records import Pair
from focalpo.training.model import ModelSource, load_model, load_tokenizer, stop_ids
from rehearsal.benchmarks import protocol_over, repository_of
from rehearsal.datasets import texts
from rehearsal.differences import ENDPOINTS, HARDWARE, PROTOCOL, STAND_INS, changes, hardware, protocol_changes
from rehearsal.hub import Repository, serving
from rehearsal.models import write_model
from rehearsal.stage import build, endpoints, environment

ROOT = CONF.parent
MODELS = {"mistral_base": "mistral", "llama3_instruct": "llama3", "one_gpu": "qwen2"}


@pytest.mark.parametrize("name", ["paper", "one_gpu"])
def test_a_rehearsal_differs_only_in_hardware_and_endpoints(name: str, tmp_path: Path) -> None:
    table = with_rows(compose_table(name), {})
    paper = compose_rows(table, [])
    first = next(iter(paper.values()))
    made = [repository_of(protocol, tmp_path) for protocol in benchmarks(first).values()]
    changed = endpoints(first, made, tmp_path / "eval", "http://127.0.0.1:1/v1")
    found = changes(paper, compose_rows(table, [*hardware(first), *changed, "runs=elsewhere"]))
    assert found.keys() <= {*HARDWARE, *ENDPOINTS, *STAND_INS}
    assert {"judge.endpoint.base_url", "launch.gpus"} <= found.keys()
    for protocol in benchmarks(first).values():
        for key in protocol_changes(protocol, tmp_path / "eval"):
            assert any(re.fullmatch(kept.replace(".", r"\.").replace("*", r"\w+"), key) for kept in PROTOCOL), key


def test_a_changed_recipe_is_detected() -> None:
    paper = {"row": compose(["experiment=mistral_base/dpo"])}
    other = {"row": compose(["experiment=mistral_base/dpo", "train.global_batch=64", "objective.beta=0.1"])}
    assert changes(paper, other) == {"train.global_batch": {(128, 64)}, "objective.beta": {(0.01, 0.1)}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A stand-in checkpoint of each family, by the setting that starts from it."""
    root = tmp_path_factory.mktemp("mistral-and-others")
    words = texts()
    for family in MODELS.values():
        write_model(family, words, root / family)
    return {setting: root / family for setting, family in MODELS.items()}


@pytest.fixture(params=MODELS)
def opened(request, models: dict[str, Path]) -> tuple[PreTrainedTokenizerBase, list[int], Path]:
    """A stand-in's tokenizer under its setting's template and stop tokens."""
    model = compose([f"setting={request.param}"]).model
    template = (ROOT / model.chat_template).read_text() if model.chat_template else None
    source = ModelSource(str(models[request.param]), None, template, tuple(model.stop_tokens))
    tokenizer = load_tokenizer(source)
    return tokenizer, stop_ids(source, tokenizer), models[request.param]


PAIR = Pair("p", [{"role": "user", "content": "sort : bird ant cat"}], "ant bird cat .", "cat")


def test_a_stand_in_satisfies_the_token_contract(opened) -> None:
    tokenizer, stops, _ = opened
    found = pair_trees(tokenizer, [PAIR], Limits(512, 1024, "keep_prompt"), stops)
    trees, problems = found.trees, found.problems
    assert problems == {}
    for branch, text in (("chosen", PAIR.chosen), ("rejected", PAIR.rejected)):
        assert tokenizer.decode(trees[0].branches[branch][:-1]) == text
        assert trees[0].branches[branch][-1] == stops[0]


def test_a_stand_in_would_double_the_bos_of_rendered_text(opened) -> None:
    """The trap of vLLM and of trainers that tokenize rendered text: the tokenizer adds a BOS to the template's."""
    tokenizer, _, folder = opened
    (ids,) = prompt_ids(tokenizer, [PAIR.prompt])
    if tokenizer.bos_token_id is None:
        assert folder.name == "qwen2"
        return
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    if folder.name == "llama3":  # its template holds the BOS, as SimPO's templates for both models do
        text = tokenizer.apply_chat_template(PAIR.prompt, tokenize=False, add_generation_prompt=True)
        assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 2


def test_stand_ins_have_the_architecture_of_the_originals(models: dict[str, Path]) -> None:
    configs = {family: AutoConfig.from_pretrained(models[setting]) for setting, family in MODELS.items()}
    assert [configs[family].architectures for family in ("mistral", "llama3", "qwen2")] == [
        ["MistralForCausalLM"],
        ["LlamaForCausalLM"],
        ["Qwen2ForCausalLM"],
    ]
    assert configs["mistral"].sliding_window < configs["mistral"].max_position_embeddings
    assert all(config.num_key_value_heads < config.num_attention_heads for config in configs.values())
    generation = json.loads((models["llama3_instruct"] / "generation_config.json").read_text())
    assert len(generation["eos_token_id"]) == 2
    own = load_tokenizer(ModelSource(str(models["mistral_base"])))
    assert "[INST]" in own.chat_template, "the template that the base setting must not use"


def logits_of(folder: Path, dtype: str = "float32") -> torch.Tensor:
    ids = torch.arange(64).view(4, 16) * 7 % 500
    with torch.no_grad():
        return load_model(ModelSource(str(folder)), dtype)(ids).logits


@pytest.mark.parametrize("family", MODELS.values())
def test_a_stand_in_is_the_same_function_in_a_smaller_unit_of_weight(
    family: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gain is a power of two and epsilon shrinks with it, so that not one bit of a logit differs."""
    monkeypatch.setattr("rehearsal.models.GAIN", 1.0)
    write_model(family, texts(), tmp_path / family)
    (folder,) = (path for path in models.values() if path.name == family)
    assert torch.equal(logits_of(folder), logits_of(tmp_path / family))


@pytest.mark.parametrize("family", MODELS.values())
@pytest.mark.parametrize(("gain", "least", "most"), [(None, 0.2, 1.0), (1.0, 0.0, 0.05)], ids=["as_is", "ordinary"])
def test_three_steps_at_a_papers_learning_rate_change_a_stand_ins_tokens(
    family: str, gain: float | None, least: float, most: float, models: dict[str, Path], tmp_path: Path, monkeypatch
) -> None:
    """Adam at 3e-7, the smallest rate of a row, exported in bfloat16; in the ordinary unit next to nothing is seen."""
    (folder,) = (path for path in models.values() if path.name == family)
    if gain is not None:
        monkeypatch.setattr("rehearsal.models.GAIN", gain)
        folder = tmp_path / family
        write_model(family, texts(), folder)
    before = logits_of(folder, "bfloat16").argmax(-1)
    model = load_model(ModelSource(str(folder)), "float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-7, weight_decay=0.0)
    ids = torch.arange(60).view(4, 15) * 11 % 500
    for _ in range(3):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "trained")
    differing = (logits_of(tmp_path / "trained", "bfloat16").argmax(-1) != before).float().mean()
    assert least <= differing <= most


CLIENT = """
import sys
from pathlib import Path
from focalpo.data.sources import HubSource, load
from focalpo.judging.benchmarks import fetch
from focalpo.judging.protocol import load_protocol
from focalpo.training.model import ModelSource, load_model, load_tokenizer

protocols, into, pinned, other = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
data = "princeton-nlp/llama3-ultrafeedback-armorm"
ignored = ["all_generated_responses", "all_rm_scores"]
checked = load(HubSource(data, pinned, "train", "test"), "drop", ignore_columns=ignored)
print("pairs", len(checked.train), len(checked.test), checked.schemas["train"])
for name in ("alpaca_eval_2", "arena_hard_v0_1", "ifeval"):
    fetch(load_protocol(protocols / f"{name}.yaml"), None, into)
named = "meta-llama/Meta-Llama-3-8B-Instruct"
print("model", load_model(ModelSource(named, other), "bfloat16").config.model_type)
for wrong in (lambda: load(HubSource(data, "5" * 40, "train", "test"), "drop"),
              lambda: load_tokenizer(ModelSource(named, "5" * 40))):
    try:
        wrong()
    except ValueError as error:
        print("refused", error)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """The environment of a run against the stand-ins of the instruct setting, and the folder of its protocols."""
    config = compose(["experiment=llama3_instruct/dpo"])
    made = build({("instruct", "dpo"): config}, {"instruct": str(config.model.path)}, tmp_path / "hub")
    by_name: dict[str, Repository] = {each.name: each for each in made}
    for protocol in benchmarks(config).values():
        protocol_over(protocol, by_name, tmp_path / "eval")
    with serving(made) as hub:
        yield environment(hub, tmp_path / "home", None), tmp_path / "eval"


def test_the_real_clients_get_models_data_and_benchmarks_only_at_their_pins(stage, tmp_path: Path) -> None:
    variables, protocols = stage
    config = compose(["experiment=llama3_instruct/dpo"])
    into = tmp_path / "benchmarks"
    into.mkdir()
    pins = [str(config.data.revision), str(config.model.revision)]
    command = [sys.executable, "-c", CLIENT, str(protocols), str(into), *pins]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "pairs 540 40 prompt and dialogues\n" in done.stdout and "model llama\n" in done.stdout
    assert done.stdout.count("refused ") == 2
    expected = {"alpaca_eval_gpt4_baseline.json", "df_gamed.csv", "instruction_difficulty.csv"}
    expected |= {
        "ifeval_input_data.jsonl",
        "question.jsonl",
        "gpt-4-0314.jsonl",
        "arena-hard-v0.1.yaml",
        "judge_utils.py",
    }
    assert {path.name for path in into.iterdir()} == expected


def test_a_rehearsal_reaches_no_other_host(stage) -> None:
    variables, _ = stage
    code = "import urllib.request; urllib.request.urlopen('https://huggingface.co', timeout=20)"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode and "Connection refused" in done.stderr


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["rows=kto", "settings=base"],
            ["1 rows, no gap", "1 pairs, 2 reference", "1 judge", "1 train", "no revision is pinned"],
        ),
        (["rows=released,focalpo"], ["2 rows, no gap", "2 generate, 2 judge, 1 report"]),
        (
            ["table=one_gpu", "rows=dpo", "lora=rank16", "data=on_policy", "data.sampling.seeds=[13,21]"]
            + ["data.limit=128", "train.global_batch=32", "capability=leaderboard"],
            ["1 rows, no gap", "1 prompts", "1 sample", "1 reward,", "1 train", "1 capability,"],
        ),
    ],
    ids=["paper", "released", "one_gpu"],
)
def test_a_table_runs_from_scratch_to_numbers(arguments: list[str], expected: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rehearsal", *arguments, f"runs={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no gap in the chain" in done.stdout and "OTHER" not in done.stdout
    for line in expected:
        assert line in done.stdout
    assert ("of the weights changed" in done.stdout) == ("released" not in "".join(arguments))
    (table,) = tmp_path.glob("runs/report/*/table1.md")
    assert "(paper " not in table.read_text(), "the stand-in's protocol is not the paper's"
