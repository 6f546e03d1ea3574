"""Reads published annotations of AlpacaEval's pairs: a folder of NAME.json or NAME.json.gz, one file per model.

Each file is a list of rows in the library's own format; instruction, output_1 (the reference), output_2 (the model) and
preference are read. A row without a preference was never judged and is left out for both judges.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focalpo.scoring.annotations import PAIR, annotation_rows, preferences
from focalpo.scoring.stats import Array
from focalpo.stages.records import Completion, Question

ENDINGS = (".json", ".json.gz")


@dataclass(frozen=True, slots=True)
class Annotated:
    """One model's pairs and the published preferences, [pairs], in file order."""

    model: str
    questions: list[Question]
    answers: list[Completion]
    published: Array

    def turned(self) -> "Annotated":
        """The same pairs with the roles swapped: the model's answer is the reference. The preferences are unchanged."""
        questions = [Question(q.id, q.prompt, a.text) for q, a in zip(self.questions, self.answers, strict=True)]
        answers = [Completion(q.id, q.prompt, q.reference, 0, True) for q in self.questions]
        return Annotated(self.model, questions, answers, self.published)

    @property
    def lengths(self) -> tuple[Array, Array]:
        """Lengths of the reference's and of the model's answers in characters, each [pairs]."""
        return (
            np.array([len(question.reference) for question in self.questions], dtype=float),
            np.array([len(answer.text) for answer in self.answers], dtype=float),
        )


def read_annotations(folder: Path, limit: int | None) -> list[Annotated]:
    """Read the first `limit` rows of every model in a folder, sorted by file name.

    Raises:
        ValueError: if the folder holds no annotations, or a file is not an annotation file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; pass a folder of NAME.json or NAME.json.gz, one per model")
    files = sorted(path for path in folder.glob("*") if path.name.endswith(ENDINGS))
    if not files:
        raise ValueError(f"{folder} holds no annotations; pass a folder of NAME.json or NAME.json.gz, one per model")
    return [_read(path, limit) for path in files]


def _read(path: Path, limit: int | None) -> Annotated:
    all_rows = annotation_rows(path, PAIR)
    judged = list(zip(all_rows, preferences(path, all_rows), strict=True))[:limit]
    rows = [([row[name] for name in PAIR], preference) for row, preference in judged if not np.isnan(preference)]
    if not rows:
        raise ValueError(f"{path} holds no row with a preference; remove the file from the folder")
    prompts = [[{"role": "user", "content": instruction}] for (instruction, _, _), _ in rows]
    return Annotated(
        path.name.partition(".json")[0],
        [Question(str(n), prompts[n], reference) for n, ((_, reference, _), _) in enumerate(rows)],
        [Completion(str(n), prompts[n], answer, 0, True) for n, ((_, _, answer), _) in enumerate(rows)],
        np.array([preference for _, preference in rows]),
    )
