"""The README is true: its commands run, its table is the one in docs/, its files exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from focalpo.reporting.finding import finding
from focalpo.stages.folder import Folder, Stage
from recipes.publish import FILES, publish
from tests.published import published

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]
TINY = [
    "model.phases.pretraining.count=640",
    "model.phases.pretraining.train.max_steps=10",
    "model.phases.sft.count=320",
    "data.prompts=200",
    "train.max_steps=3",
    "dynamics.train_pairs=20",
]
TINY_FILE = ["model.phases.sft.count=64", "train.max_steps=2", "dynamics.train_pairs=20"]


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_a_make_command_names_a_target_and_calls_what_exists(command: str) -> None:
    printed = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    for module in re.findall(r"python -m (recipes\.\w+)", printed.stdout):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


ASKS_A_JUDGE = "python -m recipes.calibrate_judge"  # has its own tests, on published annotations


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python") and ASKS_A_JUDGE not in c])
def test_a_python_command_runs(command: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    runs = tmp_path_factory.getbasetemp() / "readme-runs"  # shared: the commands are meant to share stages
    words = shlex.split(command)
    tiny = [*TINY, "settings=base"] if "recipes.reproduce" in command else TINY
    if "recipes.dynamics" in command:
        tiny = TINY_FILE
        pairs = tmp_path_factory.mktemp("data") / "pairs.jsonl"
        rows = [f'{{"prompt": "say {n}", "chosen": "here is {n}", "rejected": "no {n} for you"}}' for n in range(200)]
        pairs.write_text("\n".join(rows) + "\n")
        words = [word.replace("pairs.jsonl", str(pairs)) for word in words]
    found = subprocess.run(
        [sys.executable, *words[1:], *tiny, f"runs={runs}"], cwd=ROOT, capture_output=True, text=True, timeout=800
    )
    assert found.returncode == 0, found.stdout + found.stderr
    if "recipes.dynamics" in command:
        assert re.search(r"DPO +[01]\.\d{4}", found.stdout) and re.search(r"FocalPO +[01]\.\d{4}", found.stdout)


def test_the_table_is_the_one_that_was_produced() -> None:
    produced = (ROOT / "docs" / "pocket" / "summary.md").read_text().strip()
    shown = re.search(r"<!-- table: .*?-->\n(.*?)\n<!-- end of table -->", README, re.S)
    assert shown is not None and shown.group(1).strip() == produced


@pytest.mark.parametrize(("page", "table"), [("README.md", "pocket"), ("docs/studies.md", "gamma")])
def test_the_finding_is_the_sentence_that_the_published_numbers_give(page: str, table: str) -> None:
    assert f"\n**{finding(published(table))}**\n" in (ROOT / page).read_text()


def test_every_path_that_is_named_exists() -> None:
    paths = re.findall(r"`((?:conf|focalpo|recipes|eval|tests|docs)/[\w./]*)`|\]\((docs/[\w./]+)\)", README)
    missing = [path for pair in paths for path in pair if path and not (ROOT / path).exists()]
    assert not missing


def test_publishing_puts_the_produced_table_between_the_marks(tmp_path: Path) -> None:
    folder = Folder(tmp_path, Stage("report", "pocket", {}))
    with folder.being_made() as job:
        (job.path / "figures").mkdir()
        for name in (*FILES["report"], "figures/dynamics.png", "figures/length.png"):
            (job.path / name).write_text(f"| {name} |\n")
        folder.seal(1.0)
    (tmp_path / "README.md").write_text(
        "before\n<!-- table: docs/pocket/summary.md -->\nold\n<!-- end of table -->\n"
        "![x](docs/pocket/dynamics.png)\nafter\n"
    )
    publish(folder.path, tmp_path)
    shown = (tmp_path / "README.md").read_text()
    assert shown.startswith("before\n") and shown.endswith("after\n")
    assert "| summary.md |" in shown and "old" not in shown
    assert {path.name for path in (tmp_path / "docs/pocket").iterdir()} == {
        *FILES["report"],
        "dynamics.png",
        "report.json",
    }
    assert (tmp_path / "docs/pocket/table1.csv").read_text() == "| table1.csv |\n"
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="has a place for docs/pocket/summary.md"):
        publish(folder.path, tmp_path)
