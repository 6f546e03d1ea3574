"""Under which licence a benchmark's texts stand, and what that says about the answers made with them."""

from collections.abc import Iterable
from pathlib import Path

from focalpo.judging.requests import protocol_of
from focalpo.stages.folder import Job

OPEN, CLOSED = "Apache-2.0", "CC-BY-NC-4.0: no commercial use, and credit to its authors"
LICENCES = {
    "tatsu-lab/alpaca_eval": CLOSED,
    "github.com/lmarena/arena-hard-auto": OPEN,
    "google/IFEval": OPEN,
    "own": OPEN,
    "pocket": OPEN,
}
"""By the source that a protocol of eval/ names; docs/protocol.md lists the same."""


def not_to_share(benchmarks: Iterable[Path]) -> str:
    """Why the answers to these benchmarks' prompts are not to be shared; empty where every licence allows it.

    Args:
        benchmarks: folders of benchmark stages.
    """
    protocols = [protocol_of(Job.read(folder).settings) for folder in benchmarks]
    licences = {each.name: LICENCES.get(each.source, "licence unknown here") for each in protocols}
    closed = [f"{name} ({licence})" for name, licence in licences.items() if licence != OPEN]
    if not closed:
        return ""
    return (
        f"Do not share the folder answers/: it holds the instructions and reference answers of {' and '.join(closed)}, "
        "the models' answers to them, and what the judge wrote about these. report.html without that folder has none "
        "of these texts."
    )
