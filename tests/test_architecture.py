"""Data flows one way: rooms stand on floors, an import goes down, a library is known to one room, no cycle, no heap."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

from focalpo.stages.code import TOGETHER

ROOT = Path(__file__).parent.parent
# The floors, lowest first. A room imports from lower floors only, never from its own or a higher one.
FLOORS = (
    ("processes",),
    ("stages",),
    ("data", "pocket", "judging", "scoring", "checking"),
    ("training", "reporting"),
    ("answering", "config"),
    ("planning", "speed"),
    ("running",),
    ("recipes",),
    ("rehearsal",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_ROOMS, MOST_ARROWS, MOST_RECIPES, MOST_LINES, MOST_MEDIAN = 16, 50, 34, 300, 110
# package -> the only places that may import it
ONLY = {
    "hydra": {"config/compose", "config/overrides", "config/wording"},
    "omegaconf": {"config/compose"},
    "deepspeed": {"training/engine", "training/checkpoint", "training/buffers", "training/lora", "training/sequence"},
    "vllm": {"answering/vllm_engine"},
    "wandb": {"stages/track"},
    "wandb_workspaces": {"dashboard"},
    "nbclient": {"notebooks"},
    "alpaca_eval": {"judging/alpaca_eval"},
    "trl": {"speed/peer", "trl_focalpo"},
    "peft": {"training/lora"},
    "bitsandbytes": {"training/eight_bit", "training/quantised"},
    "gguf": {"training/gguf"},
    "lm_eval": {"checking/instructions", "checking/capability"},
}
NO_TORCH = (
    "stages",
    "processes/apart",
    "processes/lifeline",
    "judging",
    "scoring",
    "reporting",
    "pocket",
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


def room_of(module: str) -> str | None:
    """A folder or loose file directly under focalpo/; recipes/ and rehearsal/ are one room each; None for libraries."""
    package, _, below = module.partition(".")
    if package == "focalpo":
        return below.partition(".")[0] or None  # the package's own docstring is no room
    return package if package in ("recipes", "rehearsal") else None


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports from the second."""
    pairs = {(room_of(module_of(path)), room_of(name)) for path in FILES for name in imported(path)}
    return {(room, other) for room, other in pairs if room and other and room != other}


def test_rooms_and_arrows_are_few() -> None:
    rooms = {room for path in FILES if (room := room_of(module_of(path)))}
    assert rooms == FLOOR_OF.keys() and len(rooms) <= MOST_ROOMS
    assert len(arrows()) <= MOST_ARROWS, sorted(arrows())


def test_every_arrow_points_down() -> None:
    assert not [(room, other) for room, other in arrows() if FLOOR_OF[other] >= FLOOR_OF[room]]


def test_a_recipe_is_looked_up_by_name_in_one_place() -> None:
    """Whoever makes a stage calls the recipe of its kind: the one way up, and no import."""
    lookups = [module_of(path) for path in FILES if "import_module" in path.read_text()]
    assert sorted(lookups) == ["focalpo.running.worker", "focalpo.training.objective"]  # the latter its own files


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_library_is_known_to_the_place_that_needs_it(path: Path) -> None:
    place = "/".join(path.relative_to(ROOT).with_suffix("").parts[1:])
    for name in imported(path):
        top = name.partition(".")[0]
        assert top not in ONLY or place in ONLY[top], f"{place} may not import {top}: only {ONLY[top]} knows it"
        assert top != "torch" or not place.startswith(NO_TORCH), f"{place} must run without torch"


def test_the_objective_stands_apart() -> None:
    """Of ours it knows how a range is declared, and a torch that is imported when a loss is evaluated."""
    files = (ROOT / "focalpo/training/objective").glob("*.py")
    names = {name for file in files for name in imported(file) if name.startswith("focalpo")}
    apart = ("focalpo.stages.ranges.", "focalpo.training.objective.")
    assert {name for name in names if not name.startswith(apart)} == {
        "focalpo.training.later", "focalpo.training.later.Tensor", "focalpo.training.later.logsigmoid"
    }  # fmt: skip


def test_there_is_no_import_cycle() -> None:
    modules = {module_of(path) for path in FILES}

    def target(name: str) -> str | None:
        return name if name in modules else name.rpartition(".")[0] if name.rpartition(".")[0] in modules else None

    graph = {module_of(path): {target(name) for name in imported(path)} - {None, module_of(path)} for path in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)


def test_eval_holds_data_only() -> None:
    assert not list((ROOT / "eval").rglob("*.py"))


def test_files_are_short() -> None:
    lines = {module_of(path): len(path.read_text().splitlines()) for path in FILES}
    lines_of_tests = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "tests").glob("*.py")}
    assert not {name: count for name, count in (lines | lines_of_tests).items() if count > MOST_LINES}
    assert median(lines.values()) <= MOST_MEDIAN


def test_recipes_are_few_and_the_docstring_lists_them_all() -> None:
    files = [path for path in (ROOT / "recipes").rglob("*") if path.suffix in (".py", ".sh")]
    assert len(files) <= MOST_RECIPES
    lines = (ROOT / "recipes/__init__.py").read_text().splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"    \w", line)]
    assert sorted(listed) == sorted({path.stem for path in files if path.suffix == ".py"} - {"__init__"})
    together = {kind for line in lines if (kind := line[24:].partition(":")[0]) in TOGETHER}
    assert together == TOGETHER.keys()


def test_what_fills_a_stage_folder_stays_a_recipe() -> None:
    """A recipe opens, calls and seals; the thinking is in the package."""
    files = ("start", "on_policy", "pairs", "train", "generate", "benchmark", "judge", "report", "sweep", "check")
    files += ("capability", "duels")
    assert not [name for name in files if len((ROOT / f"recipes/{name}.py").read_text().splitlines()) > 140]
