"""Under which licence a benchmark's texts stand, and what that says about the answers made with them."""

from collections.abc import Iterable
from pathlib import Path

from focalpo.judging.requests import protocol_of
from focalpo.stages.folder import Job

LICENCES = {
    "tatsu-lab/alpaca_eval": "CC-BY-NC-4.0",
    "github.com/lmarena/arena-hard-auto": "Apache-2.0",
    "google/IFEval": "Apache-2.0",
    "own": "Apache-2.0",
    "pocket": "Apache-2.0",
}
"""By the source that a protocol of eval/ names; docs/protocol.md lists the same."""


def not_to_share(benchmarks: Iterable[Path]) -> str:
    """Why the answers to these benchmarks' prompts may not be shared; empty where every licence allows it.

    Args:
        benchmarks: folders of benchmark stages.
    """
    protocols = [protocol_of(Job.read(folder).settings) for folder in benchmarks]
    closed = {each.name: LICENCES[each.source] for each in protocols if "-NC-" in LICENCES[each.source]}
    if not closed:
        return ""
    named = " and ".join(f"{name} ({licence})" for name, licence in closed.items())
    return (
        f"Do not share the folder answers/: it holds the instructions and reference answers of {named}, whose licence "
        "requires credit to the authors and forbids commercial use, the models' answers, and what the judge wrote on "
        "them. report.html without that folder has none of these texts."
    )
