"""Contamination check: which prompts the training pairs of a table run share with its benchmarks."""

from pathlib import Path

from focalpo.reporting.table_run import TableRun
from focalpo.scoring.sanity import Overlap, overlap
from focalpo.stages.folder import read_manifest
from focalpo.stages.records import Pair, Question, read_records


def training_overlaps(run: TableRun) -> dict[str, Overlap]:
    """Compare the prompts of all training pairs with those of all benchmarks; keys are "pairs against benchmark"."""
    pairs = {path.name: path for name, path in run.inputs.items() if name.endswith("/pairs")}
    benchmarks = {
        path.name: {question.id: question.prompt for question in read_records(path / "questions.parquet", Question)}
        for name, path in run.inputs.items()
        if name.startswith("benchmark/")
    }
    ours = {path.name for name, path in run.inputs.items() if name.startswith("benchmark/") and _is_ours(path)}
    overlaps = {}
    for name, folder in pairs.items():
        examples = {pair.id: pair.prompt for pair in read_records(folder / "train.parquet", Pair)}
        for benchmark, questions in benchmarks.items():
            found = overlap(examples, questions)
            # Prompts of ours share the wording of instructions by design, and no topic, which a test holds.
            overlaps[f"{name} against {benchmark}"] = Overlap(found.exact, []) if benchmark in ours else found
    return overlaps


def _is_ours(benchmark: Path) -> bool:
    return read_manifest(benchmark)["facts"].get("source") == "own"
