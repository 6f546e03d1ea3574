"""Contamination check: which prompts the training pairs of a table run share with its benchmarks."""

from focalpo.reporting.table_run import TableRun
from focalpo.scoring.sanity import Overlap, overlap
from focalpo.stages.records import Pair, Question, read_records


def training_overlaps(run: TableRun) -> dict[str, Overlap]:
    """Compare the prompts of all training pairs with those of all benchmarks; keys are "pairs against benchmark"."""
    pairs = {path.name: path for name, path in run.inputs.items() if name.endswith("/pairs")}
    benchmarks = {
        path.name: {question.id: question.prompt for question in read_records(path / "questions.parquet", Question)}
        for name, path in run.inputs.items()
        if name.startswith("benchmark/")
    }
    overlaps = {}
    for name, folder in pairs.items():
        examples = {pair.id: pair.prompt for pair in read_records(folder / "train.parquet", Pair)}
        for benchmark, questions in benchmarks.items():
            overlaps[f"{name} against {benchmark}"] = overlap(examples, questions)
    return overlaps
