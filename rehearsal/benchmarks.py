"""The benchmarks' files in their published formats with our own texts, and the protocols that name them.

A protocol here is the one in eval/ except for what a stand-in cannot keep: the number of prompts, the kinds of their
instructions and the files' sha256.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from focalpo.judging.benchmarks import GITHUB
from focalpo.judging.protocol import (
    EVAL,
    AlpacaProtocol,
    ArenaProtocol,
    CheckedProtocol,
    JudgedProtocol,
    load_protocol,
)
from focalpo.judging.upstream import PROMPT, TEMPLATE_NAMES
from focalpo.pocket.benchmarks import write_benchmark
from rehearsal.hub import Repository

PROMPTS = {"alpaca_eval": 24, "arena_hard": 16, "ifeval": 20}
# Instructions that the stand-ins' answers may or may not follow; their checkers need no data of nltk's.
INSTRUCTIONS: dict[str, dict[str, Any]] = {
    "punctuation:no_comma": {},
    "change_case:english_lowercase": {},
    "length_constraints:number_words": {"num_words": 8, "relation": "less than"},
    "keywords:forbidden_words": {"forbidden_words": ["ant", "cat"]},
}
# The files that the pocket world writes, by role in a protocol.
MADE = {
    "questions": {"alpaca_eval": "alpaca_eval.json", "arena_hard": "question.jsonl"},
    "gamed": {"alpaca_eval": "df_gamed.csv"},
    "difficulty": {"alpaca_eval": "instruction_difficulty.csv"},
    "answers": {"arena_hard": "baseline.jsonl"},
}


def repository_of(name: str, root: Path) -> Repository:
    """Write a protocol's files where it expects them: in a data set of the hub, or a GitHub repository at a commit."""
    protocol = load_protocol(EVAL / f"{name}.yaml")
    on_github = protocol.source.startswith(GITHUB)
    source = protocol.source.removeprefix(GITHUB)
    repository = Repository("raw" if on_github else "datasets", source, protocol.revision, root / source)
    made = root / f"{name}.made"
    made.mkdir(parents=True)
    if isinstance(protocol, CheckedProtocol):
        write_benchmark("alpaca_eval", made, rows=PROMPTS["ifeval"])
        (file,) = protocol.files.values()
        repository.folder.mkdir(parents=True, exist_ok=True)
        (repository.folder / file.path).write_text(_instructed(json.loads((made / "alpaca_eval.json").read_text())))
        return repository
    write_benchmark(_kind(protocol), made, rows=PROMPTS[_kind(protocol)])
    for role, file in protocol.files.items():
        place = repository.folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if role in MADE:
            shutil.copyfile(made / MADE[role][_kind(protocol)], place)
        else:
            assert isinstance(protocol, ArenaProtocol)
            place.write_text(_published(role, protocol))
    return repository


def _instructed(rows: list[dict]) -> str:
    """Prompts with one or two instructions in google/IFEval's layout: arguments of other kinds stand there as null."""
    names = dict.fromkeys(name for arguments in INSTRUCTIONS.values() for name in arguments)
    kinds, lines = list(INSTRUCTIONS), []
    for number, row in enumerate(rows):
        own = [kinds[number % len(kinds)], kinds[(number + 1) % len(kinds)]][: 1 + number % 2]
        arguments = [dict.fromkeys(names) | INSTRUCTIONS[kind] for kind in own]
        values = {"key": 1000 + number, "prompt": row["instruction"], "instruction_id_list": own, "kwargs": arguments}
        lines.append(json.dumps(values) + "\n")
    return "".join(lines)


def _published(role: str, protocol: ArenaProtocol) -> str:
    """What Arena-Hard's authors publish beside the questions: the judge's settings, and code that holds its prompt."""
    if role == "prompt":
        return f"{PROMPT} = {protocol.prompt_file.read_text()!r}\n"
    template = protocol.user_template
    for place, name in TEMPLATE_NAMES.items():
        template = template.replace(name, place)
    settings = {name: protocol.request[name] for name in ("temperature", "max_tokens")}
    return yaml.safe_dump(settings | {"regex_patterns": [protocol.regex], "prompt_template": template})


def protocol_over(name: str, repositories: Mapping[str, Repository], folder: Path) -> Path:
    """Write the protocol for the stand-in's files, with its annotator and prompts beside it, and return its path."""
    values = yaml.safe_load((EVAL / f"{name}.yaml").read_text())
    repository = repositories[values["source"].removeprefix(GITHUB)]
    values["prompts"] = PROMPTS[values["benchmark"]]
    if "kinds" in values:
        values["kinds"] = list(INSTRUCTIONS)
    for file in values["files"].values():
        file["sha256"] = hashlib.sha256((repository.folder / file["path"]).read_bytes()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    for named in ("annotator", "prompt_file"):
        if named in values:
            shutil.copyfile(EVAL / values[named], folder / values[named])
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / f"{name}.yaml"


def _kind(protocol: JudgedProtocol) -> str:
    return "alpaca_eval" if isinstance(protocol, AlpacaProtocol) else "arena_hard"
