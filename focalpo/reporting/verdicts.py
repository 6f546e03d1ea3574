"""The verdict on a cell against the paper's number: reproduced, within noise or differs. The rule is data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from focalpo.reporting.cells import RowResult
from focalpo.reporting.judged import other_models
from focalpo.stages.folder import read_manifest
from focalpo.stages.metrics import column_of
from focalpo.stages.reading import read_yaml

REPRODUCED, NOISE, DIFFERS = "reproduced", "within noise", "differs"


@dataclass(frozen=True, slots=True)
class Rule:
    """The thresholds, in points and errors, and the protocol under which each column may be compared with the paper.

    `equivalent` is the margin of the equivalence test between rows, in points; `anchors` holds the tolerances against
    the author's own runs.
    """

    agree: float
    errors: float
    resolve: float
    equivalent: float
    protocols: Mapping[str, str]
    anchors: Mapping[str, float]


def read_rule(path: Path) -> Rule:
    """Read the rule from a file such as eval/verdicts.yaml.

    Raises:
        ValueError: when a key is missing or unknown.
    """
    values = read_yaml(path, "correct it, or restore it from the checkout")
    names = {field.name for field in fields(Rule)}
    if values.keys() != names:
        raise ValueError(f"{path} has the keys {sorted(values)}, but must have exactly {sorted(names)}")
    return Rule(**values)


def verdict(ours: float, standard_error: float, paper: float, rule: Rule) -> str:
    """Compare our number with the paper's, both in percent.

    distance <= agree and noise <= resolve: reproduced; distance <= noise: within noise; else differs, with
    noise = errors * sqrt(2) * standard_error.
    """
    # 1e-12 absorbs rounding: 15.1 - 14.1 must not exceed 1.
    distance, noise = abs(ours - paper) - 1e-12, rule.errors * math.sqrt(2) * standard_error
    if distance <= rule.agree and noise <= rule.resolve:
        return REPRODUCED
    return NOISE if distance <= noise else DIFFERS


def protocols_of(scored: Sequence[Path]) -> dict[str, str]:
    """The protocol of each benchmark for which all stages that scored a row followed the same one.

    A protocol is not followed where a model answered that it did not ask for.
    """
    found: dict[str, set[str]] = {}
    for path in scored:
        manifest = read_manifest(path)
        for name, values in manifest["settings"].get("protocols", {}).items():
            asked = values.get("asked")  # another judge, or other requests, of the same file: not the paper's protocol
            known = f"{values['protocol']} {asked}" if asked else values["protocol"]
            found.setdefault(name, set()).add(", ".join([known, *other_models(manifest["facts"])]))
    return {name: protocols.pop() for name, protocols in found.items() if len(protocols) == 1}


def with_verdicts(row: RowResult, protocols: Mapping[str, str], rule: Rule) -> RowResult:
    """Keep the paper's numbers only where the row was scored under the paper's protocol, and add a verdict there.

    `protocols` gives, by benchmark, the protocol under which the row was scored.
    """
    comparable = {
        column: number
        for column, number in row.paper.items()
        if column in row.cells and protocols.get(column_of(column).source, "") == rule.protocols.get(column)
    }
    cells = dict(row.cells)
    for column, paper in comparable.items():
        if paper is not None:
            cells[column] = replace(cells[column], verdict=verdict(cells[column].value, cells[column].se, paper, rule))
    return replace(row, cells=cells, paper=comparable)
