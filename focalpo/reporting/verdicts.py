"""A cell and the paper's number in, one of three words out: reproduced, within noise, differs. The rule is data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from focalpo.reporting.cells import BENCHMARKS, RowResult
from focalpo.stages.folder import read_manifest

REPRODUCED, NOISE, DIFFERS = "reproduced", "within noise", "differs"


@dataclass(frozen=True, slots=True)
class Rule:
    """How near is near (points), and the protocol under which each column may be compared with the paper at all."""

    agree: float
    errors: float
    resolve: float
    protocols: Mapping[str, str]


def read_rule(path: Path) -> Rule:
    """The rule that eval/verdicts.yaml writes down.

    Raises:
        ValueError: when a key is missing or unknown.
    """
    values = yaml.safe_load(path.read_text())
    names = {field.name for field in fields(Rule)}
    if values.keys() != names:
        raise ValueError(f"{path} has the keys {sorted(values)}, it must have exactly {sorted(names)}")
    return Rule(**values)


def verdict(ours: float, standard_error: float, paper: float, rule: Rule) -> str:
    """The word for a number and the paper's, both in percent.

    distance <= agree and noise <= resolve: reproduced; distance <= noise: within noise; else differs, with
    noise = errors * sqrt(2) * standard_error.
    """
    # Half a unit of the 12th digit: 15.1 - 14.1 must not be more than 1.
    distance, noise = abs(ours - paper) - 1e-12, rule.errors * math.sqrt(2) * standard_error
    if distance <= rule.agree and noise <= rule.resolve:
        return REPRODUCED
    return NOISE if distance <= noise else DIFFERS


def protocols_of(judged: Sequence[Path]) -> dict[str, str]:
    """The protocol of each column, where all judge stages of a row followed the same one."""
    runs = [read_manifest(path)["settings"]["protocols"] for path in judged]
    found = {column: {run[name]["protocol"] for run in runs} for column, name in BENCHMARKS.items()}
    return {column: names.pop() for column, names in found.items() if len(names) == 1}


def with_verdicts(row: RowResult, protocols: Mapping[str, str], rule: Rule) -> RowResult:
    """The row with a verdict in each cell that the paper has a number for, judged under the paper's own protocol.

    `protocols` says by column under which protocol the row was judged.
    """
    cells = dict(row.cells)
    for column, cell in row.cells.items():
        paper = row.paper.get(column)
        if paper is not None and protocols.get(column) == rule.protocols[column]:
            cells[column] = replace(cell, verdict=verdict(cell.value, cell.se, paper, rule))
    return replace(row, cells=cells)
