"""Table 1 from sealed judge stages: text, Markdown, CSV, LaTeX and two figures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from focalpo.artifact import Job, commit, read_manifest
from focalpo.dynamics import change, groups
from focalpo.plan import EVAL
from focalpo.records import PairState, read_records
from focalpo.reporting.cells import Results, RowSpec, Run, setting_rows
from focalpo.reporting.figures import dynamics_figure, table_figure
from focalpo.reporting.tables import as_csv, as_latex, as_markdown, as_text

NOTES = (
    "In brackets: 95% intervals, prompts resampled (both games and all seeds of a prompt together), crossed with "
    "seeds where a row has several. p: two-sided bootstrap, Holm-corrected over the rows of a column.",
)
SCALE_NOTES = {
    "pocket": "Pocket scale: a 0.2M-parameter model in a world whose gold reward is known. It says how the losses "
    "behave there, not how they rank on real models.",
    "one_gpu": "One-GPU scale: a small chat model and a judge of your own; it says nothing beside the paper's numbers.",
    "paper": "The paper's judge is retired: a number stands beside the paper's only under the same protocol hash.",
}


def make(job: Job) -> dict:
    """Fill the job's folder with table1.{txt,md,csv,tex,png} and dynamics.png."""
    table = job.settings["table"]
    paper = yaml.safe_load((EVAL / table["paper_numbers"]).read_text())["numbers"] if table["paper_numbers"] else {}
    rows = {}
    for setting in table["settings"]:
        specs = [
            RowSpec(name, row["label"], list(_runs(job, setting, name)), paper.get(setting, {}).get(name, {}))
            for name, row in table["rows"].items()
        ]
        benchmark = job.inputs.get(f"benchmark/{setting}/alpaca_eval")  # None where no row of the setting was judged
        rows[setting] = setting_rows(specs, benchmark and benchmark / "df_gamed.csv", table["compare_with"])
    compared = table["rows"].get(table["compare_with"], {"label": ""})["label"]
    results = Results(
        f"FocalPO, Table 1 at {table['scale']} scale, commit {commit()[:12]}",
        {name: setting["label"] for name, setting in table["settings"].items()},
        rows,
        table["compare_with"],
        compared,
        NOTES + ((SCALE_NOTES[table["scale"]],) if table["scale"] in SCALE_NOTES else ()),
    )
    for name, write in (("txt", as_text), ("md", as_markdown), ("csv", as_csv), ("tex", as_latex)):
        (job.path / f"table1.{name}").write_text(write(results))
    table_figure(results, job.path / "table1.png")
    labels = {name: row["label"] for name, row in table["rows"].items()}
    shares = {results.settings[setting]: _groups(job, setting) for setting in table["settings"]}
    dynamics_figure(shares, labels, job.path / "dynamics.png")
    return {"cells": sum(len(row.cells) for found in rows.values() for row in found)}


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
