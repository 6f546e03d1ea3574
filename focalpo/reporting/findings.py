"""What a reader must know before the numbers: sealed stage folders in, their warnings and training overlaps out."""

from collections.abc import Iterable
from pathlib import Path

from focalpo.artifact import Job, read_manifest
from focalpo.judging.sanity import Overlap, overlap
from focalpo.records import Pair, Question, read_records


def stage_warnings(folders: Iterable[Path]) -> list[str]:
    """What the stages have to say (`warnings` in their manifests' facts), each once, with the names of the sayers."""
    said: dict[str, list[str]] = {}
    for path in dict.fromkeys(folders):
        for warning in read_manifest(path)["facts"].get("warnings", []):
            said.setdefault(warning, []).append(f"{path.parent.name}/{path.name}")
    return [f"{warning} ({', '.join(sorted(names))})" for warning, names in said.items()]


def training_overlaps(trained: Iterable[Path], benchmarks: Iterable[Path]) -> dict[str, Overlap]:
    """Prompts of the pairs that train stages used against those of benchmark stages: "pairs against benchmark"."""
    pairs = {folder.name: folder for folder in (Job.read(path).inputs["pairs"] for path in trained)}
    asked = {
        path.name: {question.id: question.prompt for question in read_records(path / "questions.parquet", Question)}
        for path in dict.fromkeys(benchmarks)
    }
    found = {}
    for name, folder in pairs.items():
        examples = {pair.id: pair.prompt for pair in read_records(folder / "train.parquet", Pair)}
        for benchmark, questions in asked.items():
            found[f"{name} against {benchmark}"] = overlap(examples, questions)
    return found
