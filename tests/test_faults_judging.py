"""Killed generation and judging, hand-edited manifests and planted secrets."""

import argparse
import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.judging.serving import _vllm
from tests.soak import MARK, SMALL, leaked, outputs

ROOT = Path(__file__).parent.parent
KEY = "sk-planted-Q7x93kfPz-do-not-write-me"


def start(runs: Path, *more: str, **environment: str) -> subprocess.Popen:
    words = (*SMALL, "launch.workers=1", "rows=sft,dpo", "settings=base", *more)
    given = {word.partition("=")[0]: word for word in words}  # each once
    command = [sys.executable, "-m", "recipes.reproduce", f"runs={runs}", *given.values()]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed table, run with W&B offline and a key in the environment."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    secrets = {"OPENAI_API_KEY": KEY, "WANDB_API_KEY": "", "HF_TOKEN": KEY}
    output = finished(start(runs, "track=offline", "judge.endpoint.api_key_env=OPENAI_API_KEY", **secrets))
    assert KEY not in output
    return runs


def unsealed(runs: Path, whole: Path, *kinds: str) -> None:
    """A copy of the whole table without the stages of these kinds."""
    runs.mkdir()
    for kind in ("sft", "pairs", "reference", "train", "benchmark", "generate", "judge", "report"):
        if kind not in kinds:
            subprocess.run(["cp", "-r", str(whole / kind), str(runs / kind)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, sign, victim",
    [("generate", ".lock", "group"), ("judge", "records.jsonl", "group"), ("judge", ".lock", "command")],
)
def test_a_kill_during_generation_or_judging_gives_the_same_table_and_leaves_nothing(
    whole: Path, tmp_path: Path, kind: str, sign: str, victim: str
) -> None:
    runs, mark = tmp_path / "runs", str(tmp_path)
    unsealed(runs, whole, *["generate", "judge", "report"][["generate", "judge"].index(kind) :])
    process = start(runs, **{MARK: mark})
    while not list(runs.glob(f"{kind}/*/{sign}")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    if victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    process.stdout.close()
    assert leaked(mark) == []
    finished(start(runs))
    assert outputs(runs) == outputs(whole)


@pytest.mark.slow
def test_an_edited_manifest_is_named_and_its_stage_runs_again(whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    unsealed(runs, whole, "report")
    manifest = next(runs.glob("generate/base-dpo-*/manifest.json"))
    content = json.loads(manifest.read_text())
    content["facts"]["alpaca_eval"]["tokens"] = 999.0
    manifest.write_text(json.dumps(content))
    output = finished(start(runs))
    assert f"{manifest} was edited (its own sha256 differs); its stage must run again" in output
    assert outputs(runs) == outputs(whole)


@pytest.mark.slow
def test_two_runs_in_the_same_folder_do_not_corrupt_each_other(whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    unsealed(runs, whole, "generate", "judge", "report")
    both = [start(runs), start(runs)]
    printed = [process.communicate(timeout=400)[0] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes or any("being made by another process" in text for text in printed), printed
    finished(start(runs))
    # The run that could not lock a stage has written a separate report of the rows that it had.
    assert outputs(whole).items() <= outputs(runs).items()


@pytest.mark.slow
def test_a_planted_key_is_in_no_written_file(whole: Path) -> None:
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and any(path.name == "records.jsonl" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_crash_dump_contains_no_key(whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    unsealed(runs, whole, "train", "generate", "judge", "report")
    process = start(runs, "train.learning_rate=1e30", OPENAI_API_KEY=KEY)
    output, _ = process.communicate(timeout=400)
    assert process.returncode != 0 and "gradient is not finite at step" in output
    assert list(runs.glob("train/*/not_finite.json"))
    assert KEY not in output
    assert [path for path in runs.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_a_password_in_the_judge_address_is_rejected_and_not_printed() -> None:
    with pytest.raises(ValueError, match="contains a password; put the key into the variable") as error:
        compose([f"judge.endpoint.base_url='https://me:{KEY}@judge.example/v1'"])
    assert KEY not in str(error.value)


def test_nothing_is_unpickled_and_no_remote_code_is_trusted() -> None:
    source = {path: path.read_text() for folder in ("focalpo", "recipes") for path in (ROOT / folder).rglob("*.py")}
    for pattern in (r"\btorch\.load\(", r"\bpickle\b", r"load_checkpoint\(", r"trust_remote_code=True", r"shell=True"):
        assert not [path for path, text in source.items() if re.search(pattern, text)], pattern
    # A reward model's own code is trusted only where a configuration enables it.
    trusting = [path.name for path, text in source.items() if "trust_remote_code" in text]
    assert (
        trusting == ["rewarding.py"]
        and '"trust_remote_code": own_code' in source[ROOT / "focalpo/answering/rewarding.py"]
    )


def calls_of(path: Path) -> Iterator[tuple[str, dict[str | None, str]]]:
    """Dotted name and named arguments of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {given.arg: ast.unparse(given.value) for given in node.keywords}


def test_every_model_is_loaded_from_safetensors_only() -> None:
    files = [path for folder in ("focalpo", "recipes") for path in (ROOT / folder).rglob("*.py")]
    calls = [(path.name, name, given) for path in files for name, given in calls_of(path)]
    loads = {
        (file, name): given.get("use_safetensors") or given.get("load_format") or given.get("gguf_file")
        for file, name, given in calls
        if name.endswith((".from_pretrained", ".LLM"))
        and name not in ("AutoTokenizer.from_pretrained", "AutoConfig.from_pretrained")
    }
    assert loads == {
        ("model.py", "AutoModelForCausalLM.from_pretrained"): "True",
        ("correct.py", "AutoModelForCausalLM.from_pretrained"): "True",
        ("rewarding.py", "AutoModelForSequenceClassification.from_pretrained"): "True",
        ("vllm_engine.py", "vllm.LLM"): "'safetensors'",
        ("gguf.py", "AutoModelForCausalLM.from_pretrained"): "path.name",  # no pickle either
    }
    assert [path.name for path in files if "vllm.entrypoints" in path.read_text()] == ["serving.py"]


def test_a_local_judge_reads_safetensors_and_listens_on_loopback_whatever_its_arguments() -> None:
    command, _ = _vllm(["own/judge", "--load-format", "pt", "--host", "0.0.0.0", "--dtype", "float32"])
    parsed = argparse.ArgumentParser()
    parsed.add_argument("--load-format")
    parsed.add_argument("--host")
    found = parsed.parse_known_args(command)[0]
    assert (found.load_format, found.host) == ("safetensors", "127.0.0.1")
