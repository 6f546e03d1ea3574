"""A pocket table whose models were never trained: stand-ins are sealed in place of models and answers.

Benchmarks, judging and the report are the real stages.
"""

import random
from pathlib import Path

from focalpo.planning.stages import in_order
from focalpo.planning.table import planned
from focalpo.pocket.world import parse
from focalpo.pocket.writers import WRITERS, write
from focalpo.running.worker import make
from focalpo.stages.folder import Folder, Stage
from focalpo.stages.records import Completion, Question, read_records, write_records

JUDGED = ("judge", "duel", "report", "duels")
"""Kinds that are made, not stood in for."""
ARGUMENTS = ["rows=sft", "seeds=2"]
"""Only the SFT row: its report needs no preference training."""


def stages_of(arguments: list[str]) -> list[Stage]:
    return in_order([planned(arguments).report])


def seal_stand_ins(runs: Path, arguments: list[str]) -> None:
    """Seal every stage that judging needs, without a model: the answers are those of the `mid` writer."""
    seal_answers(runs, [planned(arguments).report])


def seal_answers(runs: Path, goals: list[Stage]) -> None:
    """As `seal_stand_ins`, for what these stages need."""
    for stage in in_order(goals):
        if stage.kind == "benchmark":
            make(runs, stage)
        elif stage.kind not in JUDGED and not Folder(runs, stage).sealed:
            folder = Folder(runs, stage)
            with folder.being_made() as job:
                sets = ("alpaca_eval", "arena_hard") if stage.kind == "generate" else ()
                for name in sets:
                    rng = random.Random(f"{stage.key} {name}")
                    questions = read_records(job.inputs[name] / "questions.parquet", Question)
                    texts = [write(parse(q.prompt[-1]["content"]), WRITERS["mid"], rng) for q in questions]
                    answers = [Completion(q.id, q.prompt, t, 3, True) for q, t in zip(questions, texts, strict=True)]
                    write_records(job.path / f"{name}.parquet", answers)
                folder.seal(0.0, {name: {"tokens": 3.0, "unfinished": 0.0} for name in sets})
