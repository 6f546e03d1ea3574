"""Were the benchmark's prompts trained on? A table run in, what its training pairs share with its benchmarks out."""

from focalpo.reporting.table_run import TableRun
from focalpo.scoring.sanity import Overlap, overlap
from focalpo.stages.folder import Job
from focalpo.stages.records import Pair, Question, read_records


def training_overlaps(run: TableRun) -> dict[str, Overlap]:
    """Prompts of the pairs that train stages used against those of benchmark stages: "pairs against benchmark"."""
    trained = [path for name, path in run.inputs.items() if name.endswith("/train")]
    pairs = {folder.name: folder for folder in (Job.read(path).inputs["pairs"] for path in trained)}
    asked = {
        path.name: {question.id: question.prompt for question in read_records(path / "questions.parquet", Question)}
        for name, path in run.inputs.items()
        if name.startswith("benchmark/")
    }
    found = {}
    for name, folder in pairs.items():
        examples = {pair.id: pair.prompt for pair in read_records(folder / "train.parquet", Pair)}
        for benchmark, questions in asked.items():
            found[f"{name} against {benchmark}"] = overlap(examples, questions)
    return found
