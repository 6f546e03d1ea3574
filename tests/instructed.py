"""Prompts with instructions of many kinds, and answers that follow some of them; no model is needed."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import yaml

WORDS = "tea leaf water cup morning slow warm kettle steam garden quiet table paper light window hill".split()
KINDS = {
    "punctuation:no_comma": {},
    "change_case:english_lowercase": {},
    "change_case:english_capital": {},
    "keywords:existence": {"keywords": ["kettle", "garden"]},
    "keywords:forbidden_words": {"forbidden_words": ["steam"]},
    "keywords:frequency": {"keyword": "tea", "frequency": 2, "relation": "at least"},
    "keywords:letter_frequency": {"letter": "z", "let_frequency": 1, "let_relation": "less than"},
    "length_constraints:number_words": {"num_words": 30, "relation": "less than"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "tea"},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:title": {},
    "detectable_format:json_format": {},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "startend:end_checker": {"end_phrase": "That is all."},
    "startend:quotation": {},
    "combination:two_responses": {},
}
"""Kinds with arguments for them; none needs data of nltk's."""


def hub_row(key: int, kinds: Sequence[str]) -> dict:
    """A row as google/IFEval's on the hub: the arguments of all other kinds stand there as null."""
    names = dict.fromkeys(name for arguments in KINDS.values() for name in arguments)
    arguments = [dict.fromkeys(names) | KINDS[kind] for kind in kinds]
    text = f"Write about {WORDS[key % len(WORDS)]}, number {key}."
    return {"key": key, "prompt": text, "instruction_id_list": list(kinds), "kwargs": arguments}


def hub_rows(count: int, seed: int = 0) -> list[dict]:
    """Prompts of one to three instructions, in which every kind occurs."""
    draw, names = random.Random(seed), list(KINDS)
    drawn = [draw.sample(names, draw.randint(1, 3)) for _ in range(count)]
    return [hub_row(1000 + n, [names[n % len(names)], *(k for k in kinds if k != names[n % len(names)])][:3])
            for n, kinds in enumerate(drawn)]  # fmt: skip


def answer(draw: random.Random) -> str:
    """A text that some checkers accept and others do not: plain, or in one of the shapes that they look for."""
    text = " ".join(draw.choices(WORDS, k=draw.randint(3, 45)))
    shapes = [
        text,
        text.upper(),
        f"tea {text}, tea kettle garden",
        f"* {text}\n* tea",
        f"<<Tea>>\n{text}\n\nP.S. warm",
        f"Sure, here it is:\ntea {text}",
        f'"{text} *tea*"',
        json.dumps({"tea": text}),
        f"tea {text} ***  {text}",
        f"Section 1\n{text}\nSection 2\n[name] {text}\nThat is all.",
        f"{text}\n******\n{text} more",
        f"tea {text}\n\n{text}\n\nThat is all.",
        "",
    ]
    return draw.choice(shapes)


def write_benchmark(folder: Path, rows: Sequence[dict], name: str = "own", **changed: object) -> Path:
    """Write the file of prompts and its protocol, and return the protocol's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = sorted({kind for row in rows for kind in row["instruction_id_list"]})
    protocol = {
        "benchmark": "ifeval",
        "name": name,
        "source": "own/prompts",
        "revision": None,
        "files": {"prompts": {"path": "prompts.jsonl", "sha256": None}},
        "prompts": len(rows),
        "layout": "hub",
        "kinds": kinds,
        "library": "0.4.13",
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(protocol | changed))
    return folder / f"{name}.yaml"
