"""Scores and tables recomputed from records alone, without a network, are byte for byte the sealed ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from focalpo.stages.folder import Folder
from recipes.rescore import rescore
from tests.judged_table import ARGUMENTS, seal_stand_ins, stages_of

ROOT = Path(__file__).parent.parent
NO_NETWORK = """
import os, socket

def refused(self, *address):
    if self.family == socket.AF_UNIX:
        return connect(self, *address)
    with open(os.environ["TRIED"], "a") as file:
        file.write(f"{address}\\n")
    raise ConnectionRefusedError("there is no network here")

def unknown(host, *_, **__):
    with open(os.environ["TRIED"], "a") as file:
        file.write(f"{host}\\n")
    raise socket.gaierror("there are no names here")

connect, socket.socket.connect, socket.getaddrinfo = socket.socket.connect, refused, unknown
"""
TABLES = ("table1.txt", "table1.md", "table1.csv", "table1.tex", "summary.md")


def command(recipe: str, runs: Path, **environment: str) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", f"recipes.{recipe}", f"runs={runs}", *ARGUMENTS]
    return subprocess.run(
        arguments, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    seal_stand_ins(folder, ARGUMENTS)
    result = command("reproduce", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def rescored(runs: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run `recipes.rescore` where every attempt to connect or to look up a name is refused and recorded."""
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    result = command("rescore", runs, PYTHONPATH=str(folder), TRIED=str(folder / "tried"))
    assert not (folder / "tried").exists(), (folder / "tried").read_text()
    return result


@pytest.mark.slow
def test_the_network_block_works(runs: Path, tmp_path: Path) -> None:
    """Under it the pocket judge is unreachable, so the next test does not pass by luck."""
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    command_line = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TRIED": str(tmp_path / "tried")}
    result = subprocess.run([sys.executable, "-c", command_line], env=environment, capture_output=True, text=True)
    assert "there are no names here" in result.stderr and "127.0.0.1" in (tmp_path / "tried").read_text()


@pytest.mark.slow
def test_tables_are_recomputed_byte_for_byte_without_a_network(runs: Path, tmp_path: Path) -> None:
    result = rescored(runs, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    report = stages_of([*ARGUMENTS, f"runs={runs}"])[-1]
    sealed, again = Folder(runs, report).path, Folder(runs / "rescored", report).path
    for name in TABLES:
        assert (sealed / name).read_bytes() == (again / name).read_bytes(), name
    judged = list((runs / "rescored/judge").glob("*/manifest.json"))
    assert f"rescored {len(judged)} judge stages from their records, all as sealed" in result.stdout and judged
    for manifest in judged:
        ours = json.loads((runs / "judge" / manifest.parent.name / "manifest.json").read_text())
        facts = json.loads(manifest.read_text())["facts"]
        assert facts["calls"]["calls"] == 0 and facts["calls"]["replayed"] >= 800
        assert facts["sentinel"] == ours["facts"]["sentinel"] and facts["sentinel"]
        for name in ("alpaca_eval.parquet", "arena_hard.parquet"):
            assert (manifest.parent / name).read_bytes() == (runs / "judge" / manifest.parent.name / name).read_bytes()


@pytest.mark.slow
def test_a_changed_or_lost_reply_is_reported(runs: Path, tmp_path: Path) -> None:
    """A changed reply gives another verdict, whose file is named; a lost reply stops the rescoring."""
    records = sorted((runs / "judge").glob("*/records.jsonl"))[0]
    whole = records.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    games = [row for row in rows if "[[A>>B]]" in str(row["reply"]) and row["outcome"] == "good"]
    changed = [json.dumps(row).replace("[[A>>B]]", "[[B>>A]]") if row is games[-1] else json.dumps(row) for row in rows]
    try:
        records.write_text("\n".join(changed) + "\n")
        result = rescored(runs, tmp_path)
        assert result.returncode == 1 and "differ from the sealed ones: judge/" in result.stderr
        assert "arena_hard.parquet" in result.stderr and "Traceback" not in result.stderr
        records.write_text("\n".join(json.dumps(row) for row in rows if row is not games[-1]) + "\n")
        result = rescored(runs, tmp_path)
        assert result.returncode == 1 and "holds no usable reply; judge again with network access" in result.stderr
    finally:
        records.write_bytes(whole)


@pytest.mark.slow
def test_changed_judging_code_is_rescored_from_the_records_of_the_same_judge(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    first, again = stages_of([*ARGUMENTS, f"runs={runs}"])[-1], runs / "rescored"
    monkeypatch.setattr("focalpo.planning.stages.judge_code", lambda config: "of another commit")
    rescore([*ARGUMENTS, f"runs={runs}"])
    output = capfd.readouterr().out
    count = len(list((again / "judge").glob("*/manifest.json")))
    assert f"rescored {count} judge stages of changed code from the records of their judge" in output and count == 2
    (table,) = again.glob("report/*/table1.csv")
    assert table.read_bytes() == (Folder(runs, first).path / "table1.csv").read_bytes()
