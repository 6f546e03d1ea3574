"""Published annotations of AlpacaEval's pairs: a folder of NAME.json or NAME.json.gz, one per model, into records.

Each is a list of rows in the library's own format; instruction, output_1 (the reference), output_2 (the model) and
preference are read. A row without a preference was never judged, and is left out on both sides.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focalpo.scoring.annotations import PAIR, annotation_rows, preference_of
from focalpo.scoring.stats import Array
from focalpo.stages.records import Completion, Question

ENDINGS = (".json", ".json.gz")


@dataclass(frozen=True, slots=True)
class Annotated:
    """One model's pairs and the published preferences, [pairs], in the order of the file."""

    model: str
    questions: list[Question]
    answers: list[Completion]
    published: Array

    def turned(self) -> "Annotated":
        """The same pairs with the roles exchanged: the model's answer is the reference. The preferences stay."""
        questions = [Question(q.id, q.prompt, a.text) for q, a in zip(self.questions, self.answers, strict=True)]
        answers = [Completion(q.id, q.prompt, q.reference, 0, True) for q in self.questions]
        return Annotated(self.model, questions, answers, self.published)

    @property
    def lengths(self) -> tuple[Array, Array]:
        """Characters of the reference's and of the model's answers, [pairs]."""
        return (
            np.array([len(question.reference) for question in self.questions], dtype=float),
            np.array([len(answer.text) for answer in self.answers], dtype=float),
        )


def read_annotations(folder: Path, limit: int | None) -> list[Annotated]:
    """Every model of a folder by name, its first `limit` rows.

    Raises:
        ValueError: when the folder holds no annotations, or a file is none.
    """
    files = sorted(path for path in folder.glob("*") if path.name.endswith(ENDINGS))
    if not files:
        raise ValueError(f"{folder} holds no annotations; give a folder of NAME.json or NAME.json.gz, one per model")
    return [_read(path, limit) for path in files]


def _read(path: Path, limit: int | None) -> Annotated:
    found = [(row, preference_of(path, row)) for row in annotation_rows(path, PAIR)[:limit]]
    rows = [([row[name] for name in PAIR], preference) for row, preference in found if not np.isnan(preference)]
    if not rows:
        raise ValueError(f"{path} holds no row with a preference; leave the file out of the folder")
    asked = [[{"role": "user", "content": instruction}] for (instruction, _, _), _ in rows]
    return Annotated(
        path.name.partition(".json")[0],
        [Question(str(n), asked[n], reference) for n, ((_, reference, _), _) in enumerate(rows)],
        [Completion(str(n), asked[n], answer, 0, True) for n, ((_, _, answer), _) in enumerate(rows)],
        np.array([preference for _, preference in rows]),
    )
