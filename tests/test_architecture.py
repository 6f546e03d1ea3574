"""Data flows one way: which room may import which, third-party packages confined to one room, no cycles."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = {"records", "origin", "artifact", "metrics", "track", "lifeline", "apart", "memory"}
# room -> rooms it may import, besides the floor and itself
MAY = {
    "data": set(),
    "pocket": set(),
    "dynamics": set(),
    "judging": set(),
    "reporting": {"judging", "dynamics"},
    "training": {"data", "dynamics"},
    "generation": {"data", "training"},
    "rewarding": {"data", "training"},
    "contract": {"data", "training"},
    "schema": {"training"},
    "speed": {"data", "training", "cost"},
    "config": {"schema", "training", "speed"},
    "plan": {"schema", "config", "judging", "training"},
    "cost": {"training"},
}
# package -> the only places that may import it
ONLY = {
    "hydra": {"config"},
    "omegaconf": {"config"},
    "deepspeed": {"training/engine", "training/checkpoint"},
    "vllm": {"generation"},
    "wandb": {"track"},
    "wandb_workspaces": {"dashboard"},
    "nbclient": {"notebooks"},
    "alpaca_eval": {"judging/alpaca_eval"},
    "trl": {"speed/peer"},
    "peft": {"training/lora"},
}
NO_TORCH = (
    *("records", "origin", "artifact", "metrics", "track", "lifeline", "apart"),
    *("dynamics", "judging", "reporting", "pocket"),
    "data/sources",
)
FILES = [path for room in ("focalpo", "recipes", "rehearsal") for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the room they reach for"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    package, *rest = path.relative_to(ROOT).with_suffix("").parts
    room, place = rest[0], "/".join(rest)
    for name in imported(path):
        top, _, below = name.partition(".")
        if package == "focalpo":
            target = below.split(".")[0]
            assert top != "recipes", f"{place}: nouns do not know verbs ({name})"
            assert top != "focalpo" or target in {room, *FLOOR, *MAY.get(room, ())}, f"{place} may not import {name}"
            assert top != "torch" or not place.startswith(NO_TORCH), f"{place} must run without torch"
            assert room not in FLOOR or top != "focalpo" or target in FLOOR, f"{place} is floor, {name} is not"
        assert top != "rehearsal" or package == "rehearsal", f"{place}: nothing that is rehearsed knows of it"
        assert top not in ONLY or place in ONLY[top], f"{place} may not import {top}: only {ONLY[top]} knows it"


def test_objective_and_dynamics_stand_apart() -> None:
    assert not [name for name in imported(ROOT / "focalpo/training/objective.py") if name.startswith("focalpo")]


def test_there_is_no_import_cycle() -> None:
    modules = {module_of(path) for path in FILES}

    def target(name: str) -> str | None:
        return name if name in modules else name.rpartition(".")[0] if name.rpartition(".")[0] in modules else None

    graph = {module_of(path): {target(name) for name in imported(path)} - {None, module_of(path)} for path in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)


def test_eval_holds_data_only() -> None:
    assert not list((ROOT / "eval").rglob("*.py"))


def test_no_file_is_two_rooms() -> None:
    assert not [f"{path} has {n} lines" for path in FILES if (n := len(path.read_text().splitlines())) > 300]


def test_recipes_stay_recipes() -> None:
    """A recipe opens, calls and seals; the thinking is in the package."""
    kinds = ("sft", "prompts", "sample", "reward", "pairs", "reference", "train", "generate", "benchmark", "judge")
    kinds += ("report", "sweep")
    assert not [k for k in kinds if len((ROOT / f"recipes/{k}.py").read_text().splitlines()) > 110]
