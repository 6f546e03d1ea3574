"""The code that an outcome depends on, as a hash.

    a root, focalpo.pocket.datasets:base_pairs --> what it names, in its module or another of ours --> ... --> hash

Read from the files once per process; nothing is imported or run. Comments, docstrings, layout and the words of an
objective that only readers see do not change the hash; neither does a definition that is not used, or the module that
a definition is in.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from focalpo.stages.origin import ROOT

SHOWN_ONLY = {"label", "equation", "source"}
"""Attributes of an objective that describe it to readers."""
WHOLE = "*"
ROOMS = ("recipes", *(f"focalpo.{room}" for room in ("data", "pocket", "judging", "scoring", "training", "reporting")))
ROOMS += ("focalpo.answering", "focalpo.checking")
"""Where the recipes of stages have what they compute with; the rest moves, starts and records."""


TOGETHER = {"convert": "start", "sft": "start", "reference": "start", "benchmark": "benchmark", "answers": "benchmark"}
TOGETHER |= {"duel": "duels", "duels": "duels"}
TOGETHER |= {"generate": "generate", "held_out": "generate"}
TOGETHER |= {"prompts": "on_policy", "sample": "on_policy", "reward": "on_policy"}
"""Kinds of stages whose recipes share a file of recipes/."""


@dataclass(frozen=True, slots=True)
class Module:
    """The top level of a module: statements by each name that they define or change, and imports by their name here."""

    statements: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str | None]]  # name -> (module, name in it, or None for the module itself)


@cache
def code_of(roots: tuple[str, ...], rooms: tuple[str, ...] | None = None, apart: tuple[str, ...] = ()) -> str:
    """Twelve hex digits over the definitions `module:name` and all that they use from `rooms`, transitively.

    Args:
        roots: `module:name`; `module:*` for everything in the module.
        rooms: packages or modules whose definitions are followed; None: all but Python's and installed ones.
        apart: packages or modules of these that are not followed, because they do not change the outcome.

    Raises:
        ValueError: when a root is in no file, so that its code cannot be read.
    """
    found: dict[tuple[str, str], list[str]] = {}
    todo = [(module, name) for module, _, name in (root.partition(":") for root in roots)]
    asked = set(todo)
    while todo:
        place = module, name = todo.pop()
        foreign = _is_installed(module) if rooms is None else not _within(module, rooms)
        inside = not (foreign or _within(module, apart))
        if place in found or not (inside or place in asked):
            continue
        statements = _statements(module, name)
        if not statements and place in asked:
            raise ValueError(f"{module}:{name} is in no source file, so its code cannot be read; define it in a module")
        found[place] = [_text(each) for each in statements]
        todo += _named(module, name, statements)
    texts = sorted({text for each in found.values() for text in each})
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _within(module: str, rooms: Sequence[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _is_installed(module: str) -> bool:
    """Whether a module is of Python or of an installed package, whose version the manifest has."""
    file = _file(module)
    return file is None or file.is_relative_to(sys.prefix) or file.is_relative_to(Path(ast.__file__).parent)


def _file(module: str) -> Path | None:
    """The file of a module of ours, or of any module that is loaded."""
    if module.partition(".")[0] in ("focalpo", "recipes"):  # also before it is loaded
        place = ROOT.joinpath(*module.split("."))
        return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


def _statements(module: str, name: str) -> list[ast.stmt]:
    file = _file(module)
    if file is None:
        return []
    text = file.read_text()
    if name == WHOLE:
        return [each for each in _parsed(text).body if not _is_import(each)]
    if found := _top_level(text).statements.get(name):
        return found
    return [each for each in ast.walk(_parsed(text)) if isinstance(each, ast.ClassDef) and each.name == name]


def _named(module: str, name: str, statements: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """The definitions that statements of a module name: in the module itself, and through imports in others."""
    file = _file(module)
    if file is None:
        return
    top = _top_level(file.read_text())
    if not statements and name in top.imports:  # another module imports it from here, where it only passes by
        origin, real = top.imports[name]
        yield origin, real or WHOLE
    if not statements and _file(f"{module}.{name}"):
        yield f"{module}.{name}", WHOLE
    nodes = [node for each in statements for node in ast.walk(each)]
    imports = top.imports | {k: v for node in nodes for k, v in _imports(node).items()}
    attributes = {id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in top.statements:
            yield module, node.id
        elif isinstance(node, ast.Name) and node.id in imports:
            origin, real = imports[node.id]
            # A module without an attribute after it is a value: anything in it may be used.
            yield origin, real or attributes.get(id(node), WHOLE)


@lru_cache(maxsize=256)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@lru_cache(maxsize=256)
def _top_level(text: str) -> Module:
    module = Module({}, {})
    for statement in _parsed(text).body:
        if _is_import(statement):
            module.imports.update(_imports(statement))
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.statements.setdefault(statement.name, []).append(statement)
        else:
            # Whatever else runs when the module is imported may define or change each name that it mentions, as
            # TABLE["x"] = 1 and TABLE.update(...) do; a plain assignment only the names on its left.
            for name in dict.fromkeys(_changed(statement)):
                module.statements.setdefault(name, []).append(statement)
            module.imports.update({k: v for node in ast.walk(statement) for k, v in _imports(node).items()})
    return module


def _changed(statement: ast.stmt) -> Iterator[str]:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    plain = isinstance(statement, ast.Assign | ast.AnnAssign) and not any(
        isinstance(node, ast.Subscript | ast.Attribute) for target in targets for node in ast.walk(target)
    )
    for node in [each for target in targets for each in ast.walk(target)] if plain else ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _imports(node: ast.AST) -> dict[str, tuple[str, str | None]]:
    """The names that an import binds; `from package import module` binds the module where it is one of ours."""
    if isinstance(node, ast.Import):
        names = [(each.name, each.asname) for each in node.names]
        return {
            short or name.partition(".")[0]: (name if short else name.partition(".")[0], None) for name, short in names
        }
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return {}
    found: dict[str, tuple[str, str | None]] = {}
    for each in node.names:
        whole = f"{node.module}.{each.name}"
        found[each.asname or each.name] = (whole, None) if _file(whole) else (node.module, each.name)
    return found


def _text(node: object) -> str:
    """A syntax tree as text that is the same on every Python: no positions, no empty fields, no docstrings."""
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [each for each in value if not _is_shown_only(each)]
        if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
            parts.append(f"{name}={_text(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_shown_only(statement: ast.stmt) -> bool:
    """A docstring or another bare text, or words such as an objective's `source`."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return bool(targets) and all(isinstance(each, ast.Name) and each.id in SHOWN_ONLY for each in targets)


def recipe_of(kind: str) -> tuple[str, str]:
    """The module of recipes/ and its function that make a kind of stage: `make`, or `make_<kind>` beside others."""
    return (f"recipes.{TOGETHER[kind]}", f"make_{kind}") if kind in TOGETHER else (f"recipes.{kind}", "make")


def recipe_code(kind: str) -> str:
    """The hash of all code by which stages of a kind are made, for the manifest: more than what their key holds."""
    module, name = recipe_of(kind)
    return code_of((f"{module}:{name}",), ROOMS) if _file(module) else "unknown"
