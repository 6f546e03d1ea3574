"""The hash of code: what an outcome uses changes it, what it does not use and what only readers see does not."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.planning.code import judge_code, objective_code
from focalpo.planning.stages import in_order, row_stages
from focalpo.stages import code
from focalpo.stages.code import code_of
from focalpo.training.objective import OBJECTIVES

LOSS = '''
"""A module of losses."""
import math
import {package}.helpers as helpers
from {package}.helpers import half
TABLE = {{"one": 1}}
TABLE["two"] = 2
LIMIT = 3

class Base:
    def shared(self, x):
        return x + LIMIT

class Loss(Base):
    """Meaning."""
    label = "Loss"
    source = "here"
    beta: float = 0.1

    def __call__(self, x):
        return half(self.shared(x)) + helpers.double(x) + TABLE["two"] + math.pi

class Other(Base):
    def __call__(self, x):
        return x
'''
HELPERS = """
FACTOR = 0.5
def half(x):
    return x * FACTOR
def double(x):
    return 2 * x
def unused(x):
    return x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's package of a loss and its helpers, outside the checkout."""
    folder = tmp_path / "mine_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "losses.py").write_text(LOSS.format(package=folder.name))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(f"{folder.name}.losses")
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]
    code_of.cache_clear()


def hashed(root: str = "losses:Loss") -> str:
    code_of.cache_clear()
    return code_of((f"mine_of_a_test.{root}",))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("losses", "math.pi", "math.e"),
        ("losses", "beta: float = 0.1", "beta: float = 0.2"),
        ("losses", "x + LIMIT", "x - LIMIT"),
        ("losses", "LIMIT = 3", "LIMIT = 4"),
        ("losses", 'TABLE["two"] = 2', 'TABLE["two"] = 3'),
        ("losses", "half(self.shared(x))", "half(x)"),
        ("helpers", "x * FACTOR", "x / FACTOR"),
        ("helpers", "FACTOR = 0.5", "FACTOR = 0.25"),
        ("helpers", "2 * x", "3 * x"),
        ("helpers", "def double(x):\n    return 2 * x", "from math import sqrt as double"),
    ],
)
def test_what_the_loss_uses_changes_its_hash(package: Path, file: str, old: str, new: str) -> None:
    first = hashed()
    edit(package / f"{file}.py", old, new)
    assert hashed() != first


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("losses", "class Loss(Base):", "# a remark\n\n\nclass Loss(Base):  # another"),
        ("losses", '"""Meaning."""', '"""Another meaning,\n    in two lines."""'),
        ("losses", '    """Meaning."""\n', ""),
        ("losses", '"""A module of losses."""', ""),
        ("losses", 'source = "here"', 'source = "there"'),
        ("losses", "    def __call__(self, x):\n        return x\n", "    def __call__(self, x):\n        return -x\n"),
        ("losses", "half(self.shared(x)) + helpers", "(half( self.shared(x) )) + helpers"),
        ("helpers", "def unused(x):\n    return x", "def unused(x):\n    return 7"),
        ("helpers", "def unused(x):", "NEW = 1\ndef unused(x):"),
    ],
)
def test_what_it_does_not_use_and_what_only_readers_see_does_not(package: Path, file: str, old: str, new: str) -> None:
    first = hashed()
    edit(package / f"{file}.py", old, new)
    assert hashed() == first


def test_a_module_used_as_a_value_counts_as_a_whole(package: Path) -> None:
    edit(package / "losses.py", "helpers.double(x)", "getattr(helpers, 'double')(x)")
    first = hashed()
    edit(package / "helpers.py", "def unused(x):\n    return x", "def unused(x):\n    return 7")
    assert hashed() != first


def test_a_helper_moved_to_another_module_is_the_same_code(package: Path) -> None:
    first = hashed("losses:Loss")
    edit(package / "helpers.py", "FACTOR = 0.5\ndef half(x):\n    return x * FACTOR\n", "")
    (package / "moved.py").write_text("FACTOR = 0.5\ndef half(x):\n    return x * FACTOR\n")
    edit(package / "losses.py", "mine_of_a_test.helpers import half", "mine_of_a_test.moved import half")
    importlib.import_module("mine_of_a_test.moved")
    assert hashed("losses:Loss") == first


def test_code_without_a_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = type("Made", (OBJECTIVES["dpo"],), {"__module__": "no_module_of_a_file"})
    monkeypatch.setitem(OBJECTIVES, "made", made)
    with pytest.raises(ValueError, match="no_module_of_a_file:Made is in no source file, .*; define it in a module"):
        objective_code("made")


def test_every_objective_has_code_of_its_own() -> None:
    assert len({objective_code(name) for name in OBJECTIVES}) == len(OBJECTIVES)


def edited(monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str) -> None:
    """Let the checkout's module read as if it had been edited."""
    file = code._file(module)
    assert file is not None
    text = file.read_text()
    assert old in text
    real = Path.read_text
    changed = text.replace(old, new, 1)
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: changed if path == file else real(path, *a, **k))
    code_of.cache_clear()


@pytest.mark.parametrize(
    "module, old, new, remade",
    [
        ("training.objective.margins", "self.beta * logps.ratio(\"chosen\"), self.beta * logps.ratio(\"rejected\")",
         "self.beta * logps.ratio(\"chosen\"), 2 * logps.ratio(\"rejected\")", {"train"}),
        ("pocket.world", "FREE_FILLER = 5", "FREE_FILLER = 6", {"pairs", "benchmark", "judge"}),
        ("pocket.judge", "TEMPERATURE = 0.3", "TEMPERATURE = 0.4", {"benchmark", "judge"}),
        ("pocket.judge", "VERDICT_NOISE = 0.5", "VERDICT_NOISE = 0.4", {"judge"}),
        ("pocket.server", "SLOW_SECONDS = 2.0", "SLOW_SECONDS = 3.0", set()),
        ("judging.endpoint", "FIRST_WAIT_SECONDS = 0.25", "FIRST_WAIT_SECONDS = 0.5", set()),
        ("judging.alpaca_eval", "<= preference <= 2 else", "<= preference < 2 else", {"judge"}),
    ],
)  # fmt: skip
def test_an_edit_of_the_project_remakes_the_stages_that_use_it(
    monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str, remade: set[str]
) -> None:
    config = compose(["experiment=pocket/focalpo"])
    before = {stage.kind + stage.name: stage for stage in in_order([row_stages(config, "row").judge])}
    edited(monkeypatch, f"focalpo.{module}", old, new)
    after = {stage.kind + stage.name: stage for stage in in_order([row_stages(config, "row").judge])}
    code_of.cache_clear()
    assert {s.kind for name, s in after.items() if s.settings != before[name].settings} == remade


def test_a_judge_elsewhere_does_not_depend_on_the_pocket_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["judge=local"])
    before = judge_code(config)
    edited(monkeypatch, "focalpo.pocket.judge", "VERDICT_NOISE = 0.5", "VERDICT_NOISE = 0.4")
    assert judge_code(config) == before
    code_of.cache_clear()
