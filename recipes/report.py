"""Table 1 from sealed judge stages: text, Markdown, CSV, LaTeX and two figures."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml

from focalpo.artifact import Job, commit, read_manifest, write_json
from focalpo.dynamics import change, groups
from focalpo.judging.protocol import ArenaTwoProtocol
from focalpo.judging.sanity import overlap_warnings
from focalpo.plan import EVAL
from focalpo.records import PairState, read_records
from focalpo.reporting.blocks import table_notes
from focalpo.reporting.cells import Results, RowResult, RowSpec, Run, holm_corrected, setting_rows
from focalpo.reporting.figures import dynamics_figure, table_figure
from focalpo.reporting.findings import stage_warnings, training_overlaps
from focalpo.reporting.styled import styled_scores
from focalpo.reporting.tables import as_csv, as_latex, as_markdown, as_text
from focalpo.reporting.verdicts import protocols_of, read_rule, with_verdicts
from recipes.opening import protocol_of


def make(job: Job) -> dict:
    """Fill the job's folder with table1.{txt,md,csv,tex,png}, dynamics.png and contamination.json."""
    table = job.settings["table"]
    trained = [path for name, path in job.inputs.items() if name.endswith("/train")]
    benchmarks = [path for name, path in job.inputs.items() if name.startswith("benchmark/")]
    overlaps = training_overlaps(trained, benchmarks)
    write_json(job.path / "contamination.json", {name: asdict(found) for name, found in overlaps.items()})
    warnings = stage_warnings(job.inputs.values()) + [
        text for name, found in overlaps.items() for text in overlap_warnings(name, found)
    ]
    rows = _rows(job)
    results = Results(
        f"FocalPO, Table 1 at {table['scale']} scale, commit {commit()[:12]}",
        {name: setting["label"] for name, setting in table["settings"].items()},
        rows,
        table["compare_with"],
        table["rows"].get(table["compare_with"], {"label": ""})["label"],
        notes=(),
        warnings=tuple(warnings),
    )
    results = replace(results, notes=table_notes(results, table["scale"]))
    for name, write in (("txt", as_text), ("md", as_markdown), ("csv", as_csv), ("tex", as_latex)):
        (job.path / f"table1.{name}").write_text(write(results))
    table_figure(results, job.path / "table1.png")
    labels = {name: row["label"] for name, row in table["rows"].items()}
    shares = {results.settings[setting]: _groups(job, setting) for setting in table["settings"]}
    dynamics_figure(shares, labels, job.path / "dynamics.png")
    return {"cells": sum(len(row.cells) for found in rows.values() for row in found), "warnings": warnings}


def _rows(job: Job) -> dict[str, list[RowResult]]:
    table = job.settings["table"]
    paper = yaml.safe_load((EVAL / table["paper_numbers"]).read_text())["numbers"] if table["paper_numbers"] else {}
    rule, rows = read_rule(EVAL / "verdicts.yaml"), {}
    for setting in table["settings"]:
        specs = [
            RowSpec(name, row["label"], list(_runs(job, setting, name)), paper.get(setting, {}).get(name, {}))
            for name, row in table["rows"].items()
        ]
        benchmark = job.inputs.get(f"benchmark/{setting}/alpaca_eval")  # None where no row of the setting was judged
        found = setting_rows(specs, benchmark and benchmark / "df_gamed.csv", table["compare_with"])
        found = _styled(job, setting, found)
        judged = {row.name: [path for path, _ in _seeds(job, setting, row.name, "judge")] for row in found}
        rows[setting] = [with_verdicts(row, protocols_of(judged[row.name]), rule) for row in found]
    return holm_corrected(rows)


def _styled(job: Job, setting: str, rows: list[RowResult]) -> list[RowResult]:
    """Under Arena-Hard v2, the rows with their score for hard prompts, style held equal; else as they are."""
    benchmark = job.inputs.get(f"benchmark/{setting}/arena_hard")
    if benchmark is None or not isinstance(protocol_of(Job.read(benchmark).settings), ArenaTwoProtocol):
        return rows
    runs = {
        row.name: [
            (judge, job.inputs[f"{setting}/{row.name}/{seed}/generate"])
            for judge, seed in _seeds(job, setting, row.name, "judge")
        ]
        for row in rows
    }
    scores = styled_scores({name: found for name, found in runs.items() if found}, benchmark)
    return [replace(r, extras={"arena_styled": scores[r.name]} | r.extras) if r.name in scores else r for r in rows]


def _runs(job: Job, setting: str, row: str) -> Iterator[Run]:
    for judge, seed in _seeds(job, setting, row, "judge"):
        generated = read_manifest(job.inputs[f"{setting}/{row}/{seed}/generate"])["facts"]["alpaca_eval"]
        facts = {"tokens": generated["tokens"], "unfinished": 100 * generated["unfinished"]}
        yield Run(judge, facts | read_manifest(judge)["facts"].get("gold", {}))


def _groups(job: Job, setting: str) -> dict[str, dict[str, float]]:
    """Mean shares of the four ranking groups over a row's seeds, on held-out pairs."""
    found = {}
    for row in job.settings["table"]["rows"]:
        files = [folder / "dynamics.parquet" for folder, _ in _seeds(job, setting, row, "train")]
        if files:
            shares = [groups(change(read_records(file, PairState), "test")) for file in files]
            found[row] = {name: float(np.mean([share[name] for share in shares])) for name in shares[0]}
    return found


def _seeds(job: Job, setting: str, row: str, kind: str) -> list[tuple[Path, int]]:
    parts = [(name.split("/"), path) for name, path in job.inputs.items()]
    mine = [(int(p[2]), path) for p, path in parts if len(p) == 4 and p[0] == setting and p[1] == row and p[3] == kind]
    return [(path, seed) for seed, path in sorted(mine)]
