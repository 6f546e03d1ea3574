"""Table 1 from sealed judge stages: text, Markdown, CSV, LaTeX and two figures."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml

from focalpo.artifact import Job, commit, read_manifest, write_json
from focalpo.dynamics import change, groups
from focalpo.judging.sanity import overlap_warnings
from focalpo.plan import EVAL
from focalpo.records import PairState, read_records
from focalpo.reporting.blocks import block_notes
from focalpo.reporting.cells import BENCHMARKS, Results, RowResult, RowSpec, Run, holm_corrected, setting_rows
from focalpo.reporting.figures import dynamics_figure, table_figure
from focalpo.reporting.findings import stage_warnings, training_overlaps
from focalpo.reporting.tables import as_csv, as_latex, as_markdown, as_text
from focalpo.reporting.verdicts import read_rule, with_verdicts

NOTES = (
    "In brackets: 95% intervals, prompts resampled (both games and all seeds of a prompt together), crossed with "
    "seeds where a row has several.",
)
SCALE_NOTES = {
    "pocket": "Pocket scale: a 0.2M-parameter model in a world whose gold reward is known. It says how the losses "
    "behave there, not how they rank on real models.",
    "paper": "The paper's judge is retired: a number stands beside the paper's only under the same protocol hash.",
}


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
    compared = table["rows"].get(table["compare_with"], {"label": ""})["label"]
    results = Results(
        f"FocalPO, Table 1 at {table['scale']} scale, commit {commit()[:12]}",
        {name: setting["label"] for name, setting in table["settings"].items()},
        rows,
        table["compare_with"],
        compared,
        (),
        tuple(warnings),
    )
    scale = (SCALE_NOTES[table["scale"]],) if table["scale"] in SCALE_NOTES else ()
    results = replace(results, notes=NOTES + block_notes(results) + scale)
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
        rows[setting] = [with_verdicts(row, _protocols(job, setting, row.name), rule) for row in found]
    return holm_corrected(rows)


def _protocols(job: Job, setting: str, row: str) -> dict[str, str]:
    """The protocol of each column, where all seeds of the row were judged under the same one."""
    judged = [read_manifest(path)["settings"]["protocols"] for path, _ in _seeds(job, setting, row, "judge")]
    found = {column: {run[name]["protocol"] for run in judged} for column, name in BENCHMARKS.items()}
    return {column: names.pop() for column, names in found.items() if len(names) == 1}


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
