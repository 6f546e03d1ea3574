"""The pocket benchmarks: writes held-out tasks in the file formats of AlpacaEval and Arena-Hard.

    alpaca_eval   alpaca_eval.json, df_gamed.csv, instruction_difficulty.csv     all kinds of task
    arena_hard    question.jsonl, baseline.jsonl                                 the harder kinds of task

The good writer gives the reference answers. The seed is fixed: it belongs to the measurement, not to a run.
"""

import csv
import hashlib
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from focalpo.pocket.judge import log_odds, preference
from focalpo.pocket.world import CONTENT, WEIGHTS, Task, draw_tasks
from focalpo.pocket.writers import WRITERS, Writer, write

BENCHMARK_SEED = 20250106
ROWS = MappingProxyType({"alpaca_eval": 400, "arena_hard": 200})
REFERENCE = "pocket_reference"

# Kinds with a single word have only 52 prompts each, and training cannot use the held-out ones: take few.
ALPACA_WEIGHTS = {
    name: weight * (1 if name in ("spell", "spellback", "letters") else 4) for name, weight in WEIGHTS.items()
}
ARENA_WEIGHTS = {name: WEIGHTS[name] for name in ("sort", "reverse", "initials", "remove", "max", "add")}

# Rewrites of a reference answer that keep its content, right or wrong.
GAMED = (
    Writer("verbose", corrupt=0, corruptions=0, opener=1, ending=1, rambles=(0, 0, 1, 0)),
    Writer("concise", corrupt=0, corruptions=0, opener=0, ending=0, rambles=(1, 0, 0, 0)),
)
DRAFTS = 8
"""Answers per writer used to compute the difficulty of an instruction."""


def benchmark_tasks(seed: int = BENCHMARK_SEED) -> dict[str, list[Task]]:
    """Draw the held-out tasks of both benchmarks, in file order; no prompt occurs twice."""
    alpaca = draw_tasks(ROWS["alpaca_eval"], f"alpaca eval {seed}", weights=ALPACA_WEIGHTS)
    taken = frozenset(task.prompt for task in alpaca)
    arena = draw_tasks(ROWS["arena_hard"], f"arena hard {seed}", taken, ARENA_WEIGHTS)
    return {"alpaca_eval": alpaca, "arena_hard": arena}


def benchmark_prompts(seed: int = BENCHMARK_SEED) -> frozenset[str]:
    """The prompts that a training set must not contain."""
    return frozenset(task.prompt for tasks in benchmark_tasks(seed).values() for task in tasks)


def write_benchmark(kind: str, folder: Path, seed: int = BENCHMARK_SEED, rows: int | None = None) -> None:
    """Write the files of `alpaca_eval` or `arena_hard` into an existing folder: all rows, or the first `rows`.

    Raises:
        ValueError: if the kind is unknown or `rows` is out of its range.
    """
    if kind not in ROWS:
        raise ValueError(f"{kind!r} is not a pocket benchmark; choose one of {', '.join(ROWS)}")
    rows = ROWS[kind] if rows is None else rows
    if not 2 <= rows <= ROWS[kind]:
        raise ValueError(f"the pocket {kind} can have 2 to {ROWS[kind]} rows, got rows={rows}; change it")
    tasks = benchmark_tasks(seed)[kind][:rows]
    references = [_reference(task, seed) for task in tasks]
    write_files = _write_alpaca_eval if kind == "alpaca_eval" else _write_arena_hard
    write_files(folder, tasks, references, seed)


def _write_alpaca_eval(folder: Path, tasks: list[Task], references: list[str], seed: int) -> None:
    examples = [
        {"instruction": task.prompt, "output": reference, "generator": REFERENCE, "dataset": f"pocket_{task.kind}"}
        for task, reference in zip(tasks, references, strict=True)
    ]
    (folder / "alpaca_eval.json").write_text(json.dumps(examples, indent=1))
    difficulty = _difficulty(tasks, references, seed)
    gamed = [row for writer in GAMED for row in _gamed_rows(writer, tasks, references, difficulty, seed)]
    _write_csv(folder / "df_gamed.csv", gamed)
    rows = [{"index": index, "instruction_difficulty": value} for index, value in enumerate(difficulty)]
    _write_csv(folder / "instruction_difficulty.csv", rows)


def _difficulty(tasks: list[Task], references: list[str], seed: int) -> list[float]:
    """How much easier an instruction's reference is to beat than row 0's, in log-odds.

    The least-squares row effects of log-odds[model, row] = model + row, over 32 drafts by the four writers. (Upstream
    fits the same table by logistic regression, because it lacks the judge's log-odds; its row 0 is 0 too.)
    """
    means = []
    for task, reference in zip(tasks, references, strict=True):
        rng = random.Random(f"pocket drafts {seed} {task.prompt}")
        drafts = [write(task, writer, rng) for writer in WRITERS.values() for _ in range(DRAFTS)]
        means.append(statistics.fmean(log_odds(task.prompt, draft, reference) for draft in drafts))
    return [mean - means[0] for mean in means]


def _gamed_rows(
    writer: Writer, tasks: list[Task], references: list[str], difficulty: list[float], seed: int
) -> list[dict]:
    """The reference, rewritten at another length, against itself: shows the effect of length alone on the judge."""
    answers = []
    for task, reference in zip(tasks, references, strict=True):
        kept = tuple(token for token in reference.split() if token in CONTENT)
        answers.append(
            write(Task(task.kind, task.prompt, kept), writer, random.Random(f"pocket gamed {seed} {task.prompt}"))
        )
    deltas = [len(reference) - len(answer) for answer, reference in zip(answers, references, strict=True)]
    spread = statistics.stdev(deltas)
    return [
        {
            "model": f"{REFERENCE}_{writer.name}",
            "index": index,
            "preference": preference(task.prompt, answer, reference),
            "std_delta_len": delta / spread,
            "instruction_difficulty": value,
            "not_gamed_baseline": False,
        }
        for index, (task, answer, reference, delta, value) in enumerate(
            zip(tasks, answers, references, deltas, difficulty, strict=True)
        )
    ]


def _write_arena_hard(folder: Path, tasks: list[Task], references: list[str], seed: int) -> None:
    uids = [hashlib.sha256(f"{seed} {task.prompt}".encode()).hexdigest()[:32] for task in tasks]
    questions = [
        {"uid": uid, "category": "pocket-arena-hard", "cluster": task.kind, "prompt": task.prompt}
        for uid, task in zip(uids, tasks, strict=True)
    ]
    baseline = [{"uid": uid, "answer": reference} for uid, reference in zip(uids, references, strict=True)]
    for name, rows in (("question", questions), ("baseline", baseline)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _reference(task: Task, seed: int) -> str:
    # One random stream per prompt: the answer does not depend on how many rows are written.
    return write(task, WRITERS["good"], random.Random(f"pocket reference {seed} {task.prompt}"))


def _write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
