"""What alpaca_eval must not do here: write, print, contact other hosts, or change global settings."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import openai
import pytest
import yaml

from focalpo.judging import alpaca_eval as room
from focalpo.judging.alpaca_eval import judge_alpaca
from tests.judge_stub import judge_stub, opened
from tests.known_judge import CHANCES, EVAL, benchmark, honest, protocol

ROOT = Path(__file__).parent.parent
FRESH_PROCESS = """
import json, logging, socket, sys
from pathlib import Path

url, folder = sys.argv[1:]
allowed, refused, connect = url.split("/")[2], [], socket.socket.connect


def guarded(self, address):
    if f"{address[0]}:{address[1]}" != allowed:
        refused.append(str(address))
        raise ConnectionRefusedError(address)
    return connect(self, address)


def no_names(host, *rest, **options):
    if host != allowed.split(":")[0]:
        refused.append(str(host))
    return look_up(host, *rest, **options)


look_up = socket.getaddrinfo
socket.socket.connect, socket.getaddrinfo = guarded, no_names
import sklearn

settings = lambda: [logging.getLogger().level, len(logging.getLogger().handlers), sklearn.get_config()]
before = settings()
from focalpo.judging.alpaca_eval import judge_alpaca
from tests.judge_stub import opened
from tests.known_judge import CHANCES, benchmark, protocol

with opened(url, Path(folder)) as endpoint:
    verdicts = judge_alpaca(*benchmark(CHANCES), protocol(8), endpoint)
result = {"kept": settings() == before, "refused": refused, "preferences": [v.preference for v in verdicts]}
(Path(folder) / "result.json").write_text(json.dumps(result))
"""


def test_a_fresh_process_contacts_only_the_judge_and_keeps_global_settings(tmp_path: Path) -> None:
    """Imports included: alpaca_eval raises the root logger's level when it is imported."""
    with judge_stub(honest) as stub:
        command = [sys.executable, "-c", FRESH_PROCESS, stub.url, str(tmp_path)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["kept"] and result["refused"] == []
    assert result["preferences"] == pytest.approx([1 + chance for chance in CHANCES])
    assert len(stub.requests) == 8


def modification_times(package: Path) -> dict[Path, int]:
    files = (path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.stat().st_mtime_ns for path in files}


def test_the_library_writes_nothing_prints_nothing_and_leaves_logging_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(room._library().__file__).parent
    monkeypatch.chdir(tmp_path)
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    before = modification_times(package)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(*benchmark(CHANCES), protocol(8), endpoint)
    assert modification_times(package) == before
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)


def test_one_client_serves_all_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    construct = openai.OpenAI.__init__

    def counted(self: openai.OpenAI, *args: object, **kwargs: object) -> None:
        built.append(self)
        construct(self, *args, **kwargs)

    monkeypatch.setattr(openai.OpenAI, "__init__", counted)
    with judge_stub(honest) as stub, opened(stub.url, tmp_path) as endpoint:
        judge_alpaca(*benchmark(CHANCES), protocol(8), endpoint)
    assert len(built) == 1


def test_our_official_annotator_is_the_one_that_the_library_ships() -> None:
    shipped = Path(room._library().__file__).parent / "evaluators_configs/weighted_alpaca_eval_gpt4_turbo/configs.yaml"
    ours = EVAL / "weighted_alpaca_eval_gpt4_turbo.yaml"
    assert yaml.safe_load(ours.read_text()) == yaml.safe_load(shipped.read_text())


def test_another_version_of_the_library_is_rejected(tmp_path: Path) -> None:
    questions, completions = benchmark([0.5])
    with opened(None, tmp_path) as endpoint, pytest.raises(ValueError, match="pip install alpaca-eval==0.6.2"):
        judge_alpaca(questions, completions, replace(protocol(1), library="0.6.2"), endpoint)
