"""Prompts of our own with verifiable instructions, drawn from the topics, requests and kinds of a YAML in eval/."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focalpo.checking.instructions import Instructed, conflicting
from focalpo.stages.reading import read_yaml

REMEDY = "restore it from the checkout"


@dataclass(frozen=True, slots=True)
class Draw:
    """Which prompts to draw: about the topics of a split, with instructions of the trained or the new kinds."""

    split: str
    kinds: str
    count: int
    seed: int


def drawn(file: Path, draw: Draw) -> list[Instructed]:
    """Draw distinct prompts; topics and requests take turns, instructions are random.

    Raises:
        ValueError: when the file is damaged, or has not that many different prompts.
    """
    source = read_yaml(file, REMEDY)
    random_of = random.Random(f"{draw.split} {draw.kinds} {draw.seed}")
    found: dict[str, Instructed] = {}
    for attempt in _requests(source, draw, random_of):
        number = len(found)
        if number == draw.count:
            break
        made = _prompt(f"{draw.split}-{draw.kinds}-{number}", *attempt, source, draw.kinds, random_of)
        found.setdefault(made.prompt, made)
    if len(found) < draw.count:
        raise ValueError(f"{file} has {len(found)} different prompts of {draw.split}, {draw.count} are asked for")
    return list(found.values())


def _requests(source: Mapping, draw: Draw, random_of: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Requests with the words of their topics, every one once before any comes again, ten rounds at most."""
    topics: dict[str, list[str]] = source["topics"][draw.split]
    every = [(request.format(topic=topic), words) for topic, words in topics.items() for request in source["requests"]]
    for _ in range(10):
        yield from random_of.sample(every, len(every))


def _prompt(
    name: str, request: str, words: list[str], source: Mapping, kinds: str, random_of: random.Random
) -> Instructed:
    shares = source["instructions"]
    (count,) = random_of.choices(list(shares), list(shares.values()))
    chosen: list[dict] = []
    for entry in random_of.sample(source[kinds], len(source[kinds])):
        if len(chosen) < count and not any(conflicting(entry["kind"], other["kind"]) for other in chosen):
            chosen.append(entry)
    texts, arguments = [request], []
    words = random_of.sample(words, len(words))  # no word is both demanded and forbidden
    for entry in chosen:
        values = {name: random_of.choice(options) for name, options in entry.get("draws", {}).items()}
        if "{word}" in entry["text"]:
            values["word"] = words.pop()
        texts.append(entry["text"].format(**values))
        arguments.append(json.dumps(_filled(entry["arguments"], values)))
    return Instructed(name, " ".join(texts), [entry["kind"] for entry in chosen], arguments)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with each text `{name}` replaced by the value of that name, numbers as numbers."""
    if isinstance(template, dict):
        return {key: _filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    if isinstance(template, str) and template.startswith("{") and template.endswith("}"):
        return values[template[1:-1]]
    return template
