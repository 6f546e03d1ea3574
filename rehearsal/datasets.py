"""Tiny data sets with the published schemas, splits and file names, and texts of the pocket world."""

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from focalpo.pocket.benchmarks import benchmark_prompts
from focalpo.pocket.datasets import base_pairs, preference_tasks
from focalpo.pocket.world import Task, gold_reward
from focalpo.pocket.writers import WRITERS, write
from focalpo.stages.records import Pair

TRAIN, TEST = 540, 40
"""Numbers of rows. Four steps of 128 pairs: the first has a learning rate of 0, and in the second many losses still
agree up to a factor, which Adam cancels. Some rows are left over, as in every real epoch."""


def dialogue(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]


def trl_lib_row(pair: Pair) -> dict:
    """A row of trl-lib/ultrafeedback_binarized."""
    prompt = pair.prompt[0]["content"]
    return {
        "chosen": dialogue(prompt, pair.chosen),
        "rejected": dialogue(prompt, pair.rejected),
        "score_chosen": 8.0,
        "score_rejected": 4.5,
    }


def h4_row(pair: Pair) -> dict:
    """A row of HuggingFaceH4/ultrafeedback_binarized."""
    prompt = pair.prompt[0]["content"]
    row = trl_lib_row(pair)
    return {
        "prompt": prompt,
        "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(),
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "messages": row["chosen"],
        "score_chosen": 8.0,
        "score_rejected": 4.5,
    }


def armorm_row(task: Task, draw: random.Random) -> dict:
    """A row of princeton-nlp/llama3-ultrafeedback-armorm: five answers, their scores, the best and the worst."""
    answers = [write(task, writer, draw) for writer in (*WRITERS.values(), WRITERS["weak"])]
    scores = [0.1 + 0.05 * gold_reward(task.prompt, answer, True) for answer in answers]
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    return {
        "prompt_id": hashlib.sha256(task.prompt.encode()).hexdigest(),
        "prompt": task.prompt,
        "all_generated_responses": answers,
        "all_rm_scores": scores,
        "chosen": dialogue(task.prompt, answers[best]),
        "rejected": dialogue(task.prompt, answers[worst]),
    }


def write_trl_lib(folder: Path) -> None:
    rows = [trl_lib_row(pair) for pair in _pairs(seed=11)]
    rows[3]["rejected"] = rows[3]["chosen"]  # the real data have such rows, which are dropped and counted
    _write_splits(folder, rows, {"train": TRAIN, "test": TEST})


def write_h4(folder: Path) -> None:
    rows = [h4_row(pair) for pair in _pairs(seed=12)]
    _write_splits(folder, rows, {"train_prefs": TRAIN, "test_prefs": TEST})


def write_armorm(folder: Path) -> None:
    draw = random.Random("rehearsal answers")
    tasks = preference_tasks(TRAIN + TEST, 13, benchmark_prompts())
    _write_splits(folder, [armorm_row(task, draw) for task in tasks], {"train": TRAIN, "test": TEST})


def texts() -> list[str]:
    """The texts that the tokenizers are trained on."""
    return [text for pair in _pairs(seed=14) for text in (pair.prompt[0]["content"], pair.chosen, pair.rejected)]


def _pairs(seed: int) -> list[Pair]:
    return base_pairs(2 * (TRAIN + TEST), seed, 0.1, benchmark_prompts())[: TRAIN + TEST]


def _write_splits(folder: Path, rows: list[dict], sizes: dict[str, int]) -> None:
    (folder / "data").mkdir(parents=True)
    first = 0
    for split, size in sizes.items():
        table = pa.Table.from_pylist(rows[first : first + size])
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
        first += size
