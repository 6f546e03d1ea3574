"""Tiny data sets with the layouts of those that lm-eval's tasks read on the hub, and texts of the pocket world.

Every layout is `{name of a part: {split: rows}}`; a card lists the parts, as on the hub.
"""

import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

EXAMPLES, DOCUMENTS = 30, 12
"""Rows to take worked examples from (25 at most), and rows that are scored; of MMLU's 57 parts five and one."""

Parts = dict[str, dict[str, list[dict]]]


def write_capability(name: str, words: list[str], folder: Path) -> None:
    """Write the stand-in of one data set of the hub."""
    parts = LAYOUTS[name](Texts(words, random.Random(name)))
    card = []
    for part, splits in parts.items():
        (folder / part).mkdir(parents=True)
        files = []
        for split, rows in splits.items():
            path = f"{part}/{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist(rows), folder / path)
            files.append({"split": split, "path": path})
        card.append({"config_name": part, "data_files": files} | ({"default": True} if len(parts) == 1 else {}))
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': card})}---\n")


class Texts:
    """Draws texts for rows."""

    def __init__(self, words: list[str], draw: random.Random) -> None:
        self.words, self.draw = words, draw

    def one(self) -> str:
        return self.draw.choice(self.words)

    def several(self, count: int) -> list[str]:
        return [f"{self.one()} {number}" for number in range(count)]

    def rows(self, count: int, make: Callable[["Texts"], dict]) -> list[dict]:
        return [make(self) for _ in range(count)]


def _gsm8k(texts: Texts) -> Parts:
    def row(draw: Texts) -> dict:
        return {"question": draw.one(), "answer": f"{draw.one()}\n#### {draw.draw.randrange(100)}"}

    return {"main": {"train": texts.rows(EXAMPLES, row), "test": texts.rows(DOCUMENTS, row)}}


def _arc(texts: Texts) -> Parts:
    def row(draw: Texts) -> dict:
        choices = {"text": draw.several(4), "label": list("ABCD")}
        return {"id": draw.one(), "question": draw.one(), "choices": choices, "answerKey": draw.draw.choice("ABCD")}

    names = {"train": EXAMPLES, "test": DOCUMENTS, "validation": DOCUMENTS}
    return {"ARC-Challenge": {split: texts.rows(count, row) for split, count in names.items()}}


def _hellaswag(texts: Texts) -> Parts:
    def row(draw: Texts) -> dict:
        start, end = draw.one(), draw.one()
        context = {"ctx_a": start, "ctx_b": end, "ctx": f"{start} {end}", "activity_label": draw.one()}
        return context | {"endings": draw.several(4), "label": str(draw.draw.randrange(4)), "split_type": "indomain"}

    return {"default": {"train": texts.rows(EXAMPLES, row), "validation": texts.rows(DOCUMENTS, row)}}


def _mmlu(texts: Texts) -> Parts:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations, "the suite's doctor has looked for it"
    files = (Path(spec.submodule_search_locations[0]) / "tasks" / "mmlu" / "default").glob("mmlu_*.yaml")

    def row(draw: Texts) -> dict:
        return {"question": draw.one(), "choices": draw.several(4), "answer": draw.draw.randrange(4)}

    subjects = sorted(file.stem.removeprefix("mmlu_") for file in files)
    return {subject: {"test": texts.rows(1, row), "dev": texts.rows(5, row)} for subject in subjects}


def _truthful(texts: Texts) -> Parts:
    def row(draw: Texts) -> dict:
        one, many = {"choices": draw.several(4), "labels": [1, 0, 0, 0]}, {"choices": draw.several(5)}
        return {"question": draw.one(), "mc1_targets": one, "mc2_targets": many | {"labels": [1, 1, 0, 0, 0]}}

    return {"multiple_choice": {"validation": texts.rows(DOCUMENTS, row)}}


def _winogrande(texts: Texts) -> Parts:
    def row(draw: Texts) -> dict:
        options = dict(zip(("option1", "option2"), draw.several(2), strict=True))
        return {"sentence": f"{draw.one()} _ {draw.one()}", "answer": draw.draw.choice("12")} | options

    return {"winogrande_xl": {"train": texts.rows(EXAMPLES, row), "validation": texts.rows(DOCUMENTS, row)}}


LAYOUTS: dict[str, Callable[[Texts], Parts]] = {
    "openai/gsm8k": _gsm8k,
    "allenai/ai2_arc": _arc,
    "Rowan/hellaswag": _hellaswag,
    "cais/mmlu": _mmlu,
    "truthfulqa/truthful_qa": _truthful,
    "allenai/winogrande": _winogrande,
}
