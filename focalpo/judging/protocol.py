"""The measurement protocol as data: loads a benchmark YAML of eval/ into a frozen record, and hashes it.

    eval/NAME.yaml --> AlpacaProtocol | ArenaProtocol | CheckedProtocol
    --> protocol_hash (of the values and of every file they name)

Two numbers are comparable exactly when their protocol hashes are equal.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from string import Formatter
from typing import Any

from focalpo.stages.origin import ROOT
from focalpo.stages.reading import read_yaml

EVAL = ROOT / "eval"


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """A benchmark file: its path in the source and the sha256 that it must have (None: not checked, e.g. made here)."""

    path: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class AlpacaProtocol:
    """AlpacaEval: `prompts` comparisons with `baseline`, by config `annotator` of alpaca_eval version `library`.

    The annotator's `completions_kwargs` are the `judge` and the fields of each `request`.
    """

    name: str
    source: str
    revision: str | None
    files: Mapping[str, BenchmarkFile]
    prompts: int
    baseline: str
    library: str
    annotator: Path
    judge: str
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ArenaProtocol:
    """Arena-Hard: two games per prompt; `verdicts` maps a label to (what assistant A wins, battles it counts for).

    `request` holds the fields of each request beside the model and the messages, as temperature and max_tokens.
    """

    name: str
    source: str
    revision: str | None
    files: Mapping[str, BenchmarkFile]
    prompts: int
    baseline: str
    judge: str
    request: Mapping[str, Any]
    prompt_file: Path
    user_template: str
    second_turn: str
    regex: str
    verdicts: Mapping[str, tuple[float, int]]


@dataclass(frozen=True, slots=True)
class ArenaCategory:
    """A category of Arena-Hard questions: its baseline, which of `files` has its answers, and the judge's prompt."""

    baseline: str
    answers: str
    prompt_file: Path


@dataclass(frozen=True, slots=True)
class ArenaTwoProtocol(ArenaProtocol):
    """Arena-Hard v2: one baseline and one judge prompt per category; a question's id is `category/uid`.

    The last label of a reply counts, matched by `regex` or, if that finds none, by `second_regex`.
    """

    second_regex: str
    categories: Mapping[str, ArenaCategory]


@dataclass(frozen=True, slots=True)
class CheckedProtocol:
    """IFEval: `prompts` with instructions of these `kinds`, checked by the code of lm-eval version `library`.

    `layout` names the layout of the file of prompts (focalpo/checking/layouts.py).
    """

    name: str
    source: str
    revision: str | None
    files: Mapping[str, BenchmarkFile]
    prompts: int
    layout: str
    kinds: Sequence[str]
    library: str


JudgedProtocol = AlpacaProtocol | ArenaProtocol
Protocol = JudgedProtocol | CheckedProtocol
KINDS: dict[str, type] = {
    "alpaca_eval": AlpacaProtocol,
    "arena_hard": ArenaProtocol,
    "arena_hard_2": ArenaTwoProtocol,
    "ifeval": CheckedProtocol,
}
SHOWN = ["answer_1", "answer_2", "question"]
"""The fields that an Arena-Hard user turn must show the judge."""
LIBRARY_DEFAULTS = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}
"""Fields that alpaca_eval sends where an annotator does not set them (decoders/openai.py, version 0.6.6)."""
LIBRARY_KEYS = ("model_name", "requires_chatml", "price_per_token")
"""Settings of an annotator's `completions_kwargs` that alpaca_eval keeps to itself."""
FIRST_FIELDS = ("temperature", "max_tokens")
"""Fields of a request that were keys of their own before there was a map; their hashes are kept."""


def load_protocol(path: Path) -> Protocol:
    """Load the benchmark that a YAML of eval/ defines; the files that it names must be in the same folder.

    Raises:
        ValueError: if a key is missing or unknown, a value has the wrong type, or a file that it names does not exist.
    """
    values = _read_yaml(path)
    kind = KINDS.get(values.pop("benchmark", None))
    if kind is None:
        raise ValueError(f"{path}: 'benchmark' must be one of {', '.join(KINDS)}")
    names = {field.name for field in fields(kind)} - ({"judge", "request"} if kind is AlpacaProtocol else set())
    if values.keys() != names:
        raise ValueError(
            f"{path}: missing keys {sorted(names - values.keys())}, unknown keys {sorted(values.keys() - names)}; "
            f"a benchmark of this kind has exactly {sorted(names)}"
        )
    try:
        values["files"] = {role: BenchmarkFile(**file) for role, file in values["files"].items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: each file of 'files' needs exactly the keys path and sha256 ({error})") from None
    if kind is AlpacaProtocol:
        values["annotator"] = _beside(path, values["annotator"])
        values |= _asked_by(values["annotator"])
    elif kind is not CheckedProtocol:
        values["prompt_file"] = _beside(path, values["prompt_file"])
        values["verdicts"] = _verdicts(path, values["verdicts"])
        _check_user_turn(path, values["user_template"])
        if not isinstance(values["request"], dict):
            raise ValueError(f"{path}: 'request' must hold the fields of each request, as in {{temperature: 0}}")
    if kind is ArenaTwoProtocol:
        values["categories"] = {name: _category(path, **keys) for name, keys in values["categories"].items()}
    return kind(**values)


def annotator_config(path: Path) -> dict:
    """Load an annotator config in alpaca_eval's own format, with its prompt template as an absolute path.

    The template is a file beside the config, else one of the library's evaluators_configs. (If the library cannot find
    a path, it takes the path itself as the text of the prompt and judges with that.)

    Raises:
        ValueError: if the file does not hold exactly one annotator, or its template or alpaca_eval cannot be found.
    """
    config = _read_yaml(path)
    if len(config) != 1:
        raise ValueError(f"{path} must hold one annotator, but holds {sorted(config)}; use one file per annotator")
    ((name, annotator),) = config.items()
    if not isinstance(annotator, dict) or "prompt_template" not in annotator:
        raise ValueError(f"{path}: {name} has no prompt_template; name a file beside it or one of alpaca_eval's")
    prompt = annotator["prompt_template"]
    template = path.parent / prompt
    if not template.is_file():
        library = find_spec("alpaca_eval")  # found, not imported: the import takes seconds
        if library is None or library.origin is None:
            raise ValueError(
                f"alpaca_eval is not installed, whose prompt {path.name} names; pip install --no-deps alpaca-eval in "
                "the version that eval/alpaca_eval_2.yaml names"
            )
        template = Path(library.origin).parent / "evaluators_configs" / prompt
    if not template.is_file():
        raise ValueError(f"{path}: prompt_template {prompt!r} is neither beside it nor in alpaca_eval; fix the name")
    return {name: annotator | {"prompt_template": str(template.resolve())}}


def protocol_hash(protocol: Protocol) -> str:
    """Hash a protocol: sixteen hex digits over its values and the content of every file that it names.

    Values, not bytes: a comment in the YAML does not change the hash, while a protocol changed by `dataclasses.replace`
    (another judge, another prompt file) has a different one.
    """
    values = asdict(protocol)
    if isinstance(protocol, AlpacaProtocol):
        config = annotator_config(protocol.annotator)
        (annotator,) = config.values()
        asked = {name: values.pop(name) for name in ("judge", "request")}
        if asked != _asked_by(protocol.annotator):  # else it is in the annotator, which is hashed
            values["asked"] = asked
        template = Path(annotator["prompt_template"])
        annotator["prompt_template"] = template.name
        named = {protocol.annotator.name: config, template.name: template.read_text()}
    elif isinstance(protocol, CheckedProtocol):
        named = {}
    else:
        named = {file.name: file.read_text() for file in prompt_files(protocol).values()}
        request = values.pop("request")
        values |= {name: request.pop(name) for name in FIRST_FIELDS if name in request}
        values |= {"request": request} if request else {}
    content = {"values": values, "files": named}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_name).encode()).hexdigest()[:16]


def prompt_files(protocol: ArenaProtocol) -> dict[str, Path]:
    """The judge's prompt file by category; a benchmark without categories has the single category ""."""
    if isinstance(protocol, ArenaTwoProtocol):
        return {name: category.prompt_file for name, category in protocol.categories.items()}
    return {"": protocol.prompt_file}


def fill_template(template: str, texts: Mapping[str, str]) -> str:
    """A prompt template with a text in place of each name in braces, in one pass.

    A text that holds braces, or the name of another text in braces, stays as it is: filling one name after the other
    would show the judge one answer inside the other.
    """
    names = "|".join(map(re.escape, texts))
    return re.sub(f"{{({names})}}", lambda place: texts[place[1]], template)


def _asked_by(annotator: Path) -> dict[str, Any]:
    """The judge of an annotator's config, and the fields of the requests that alpaca_eval makes from it."""
    for settings in _read_yaml(annotator).values():
        asked = settings.get("completions_kwargs") if isinstance(settings, dict) else None
        if isinstance(asked, dict) and "model_name" in asked:
            sent = {name: value for name, value in (LIBRARY_DEFAULTS | asked).items() if name not in LIBRARY_KEYS}
            request = {name: value for name, value in sent.items() if value is not None}
            return {"judge": asked["model_name"], "request": request}
    raise ValueError(f"{annotator} has no completions_kwargs with a model_name; name the judge there")


def _category(path: Path, baseline: str, answers: str, prompt_file: str) -> ArenaCategory:
    return ArenaCategory(baseline, answers, _beside(path, prompt_file))


def _name(path: Path) -> str:
    # By name: moving the repository must not change the hash.
    return path.name


def _verdicts(path: Path, values: dict) -> dict[str, tuple[float, int]]:
    try:
        return {label: (float(wins), int(count)) for label, (wins, count) in values.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"{path}: a label of 'verdicts' needs [what A wins, battles it counts for], as in A>>B: [1, 3]"
        ) from None


def _check_user_turn(path: Path, template: str) -> None:
    # A template that omits an answer would still give verdicts.
    try:
        found = sorted({name for _, name, _, _ in Formatter().parse(template) if name is not None})
    except ValueError as error:
        raise ValueError(f"{path}: user_template has an unmatched brace ({error}); double it") from None
    if found != SHOWN:
        raise ValueError(f"{path}: user_template shows {found}, but must show {SHOWN}, each in braces")


def _beside(path: Path, name: str | None) -> Path:
    file = path.parent / str(name)
    if not file.is_file():
        raise ValueError(f"{path} names {name!r}, which is not beside it; put the file there or fix the name")
    return file


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; the benchmarks and annotators are in eval/")
    return read_yaml(path, "correct it, or restore it from the checkout")
