"""Check one model's completions by code: which instructions of each prompt does it follow, strictly and loosely?"""

from focalpo.checking.instructions import check_kinds, followed, other_version
from focalpo.judging.protocol import CheckedProtocol
from focalpo.judging.requests import protocol_of
from focalpo.running.command import run_single
from focalpo.scoring.levels import accuracy, level_points
from focalpo.stages.folder import Job
from focalpo.stages.metrics import LEVELS
from focalpo.stages.records import Completion, Followed, Instructed, read_records, write_records


def make(job: Job) -> dict:
    """Fill the job's folder with `<set>.parquet`: which instructions each answer follows."""
    prompts = {name: _prompts(job, name, values) for name, values in job.settings["protocols"].items()}
    facts = {}
    for name, benchmark in job.settings["sets"].items():
        answers = read_records(job.inputs["completions"] / f"{name}.parquet", Completion)
        found = [followed(prompts[benchmark][answer.id], answer.text) for answer in answers]
        write_records(job.path / f"{name}.parquet", found)
        facts[name] = _accuracies(found)
    return facts


def _prompts(job: Job, name: str, values: dict) -> dict[str, Instructed]:
    protocol = protocol_of(values)
    assert isinstance(protocol, CheckedProtocol)
    if wrong := other_version(protocol.library):
        raise ValueError(wrong)
    instructed = read_records(job.inputs[name] / "instructions.parquet", Instructed)
    check_kinds(instructed)
    return {each.id: each for each in instructed}


def _accuracies(found: list[Followed]) -> dict[str, dict[str, float]]:
    """Percent by level, strict and loose."""
    return {
        level: {how: accuracy(level_points(found, level, how == "loose")) for how in ("strict", "loose")}
        for level in LEVELS
    }


if __name__ == "__main__":
    run_single("check")
