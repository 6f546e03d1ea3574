"""Write the report of a table from its sealed stages: tables, figures, and one page with everything behind them."""

import csv
from dataclasses import asdict, replace

from focalpo.judging.judgements import judgements
from focalpo.judging.licences import not_to_share
from focalpo.judging.protocol import EVAL
from focalpo.reporting import fixes
from focalpo.reporting.anchors import author_block, author_curves
from focalpo.reporting.answers import write_answers
from focalpo.reporting.blocks import few_seeds, table_notes
from focalpo.reporting.cells import Results
from focalpo.reporting.checklist import checklist
from focalpo.reporting.content import content_of, draw, held_out
from focalpo.reporting.document import as_latex_report, as_markdown_report, as_summary
from focalpo.reporting.fixes import shares
from focalpo.reporting.overlaps import training_overlaps
from focalpo.reporting.page import page
from focalpo.reporting.pair_groups import as_pairs_csv, pair_groups
from focalpo.reporting.provenance import chain, dirty, warnings_of
from focalpo.reporting.table_run import TableRun
from focalpo.reporting.tables import as_csv, as_latex, as_markdown
from focalpo.reporting.terminal import as_terminal
from focalpo.reporting.verdicts import read_rule
from focalpo.scoring.sanity import overlap_warnings
from focalpo.stages.folder import Job, write_json
from focalpo.stages.origin import commit, short
from focalpo.stages.reading import read_yaml

STUDIES = {"gamma": "gamma study", "noise": "label noise study", None: "Table 1"}
STUDIES |= dict.fromkeys(("rounds", "laptop_rounds"), "rounds study")
STUDIES |= dict.fromkeys(("weighting", "weighting_laptop"), "study of weights")


def make(job: Job) -> dict:
    """Fill the job's folder with the report, table, pairs and checklist, in all formats, figures/ and answers/."""
    run = TableRun.read(job.path)
    overlaps = training_overlaps(run)
    write_json(job.path / "contamination.json", {name: asdict(found) for name, found in overlaps.items()})
    warnings = [text for name, found in overlaps.items() for text in overlap_warnings(name, found)]
    stages = chain(run.inputs.values())
    changes = held_out(run)
    warnings += fixes.other_pairs(run, changes)
    results = _results(run, (*warnings_of(stages), *dirty(stages), *warnings))
    for name, write in (("md", as_markdown), ("csv", as_csv), ("tex", as_latex)):
        (job.path / f"table1.{name}").write_text(write(results))
    (job.path / "table1.txt").write_text(as_terminal(results, run.table["scale"]))
    (job.path / "summary.md").write_text(as_summary(results))
    (job.path / "pairs.csv").write_text(as_pairs_csv(pair_groups(run)))
    (job.path / "figures").mkdir(exist_ok=True)
    repeated = author_curves(run)
    anchors = author_block(run, repeated, read_rule(EVAL / "verdicts.yaml"))
    if fixed := shares(run):
        (job.path / "fixes.md").write_text(fixes.as_markdown(run, fixed))
        (job.path / "fixes.csv").write_text(fixes.as_csv(fixed))
    licence = not_to_share(path for name, path in run.inputs.items() if name.startswith("benchmark/"))
    pictures = draw(run, results, changes, job.path / "figures", repeated, fixed)
    content = content_of(run, results, changes, pictures, stages, anchors, licence)
    if anchors.body:
        with (job.path / "anchors.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("what", *anchors.header), *anchors.body])
    for name, text in (("html", page), ("md", as_markdown_report), ("tex", as_latex_report)):
        (job.path / f"report.{name}").write_text(text(content))
    (job.path / "checklist.md").write_text(checklist(run, results, stages))
    write_answers(run, job.path / "answers", judgements, licence)
    return {"cells": sum(len(row.cells) for found in results.rows.values() for row in found), "warnings": warnings}


def _results(run: TableRun, warnings: tuple[str, ...]) -> Results:
    table = run.table
    paper = read_yaml(EVAL / table["paper_numbers"], "correct it")["numbers"] if table["paper_numbers"] else {}
    title = f"FocalPO, {STUDIES[table['study']]} at {table['scale']} scale, commit {short(commit())}"
    results = run.results(paper, read_rule(EVAL / "verdicts.yaml"), title, warnings)
    warned = (*results.warnings, *few_seeds(results))
    return replace(results, notes=table_notes(results, table["scale"]), warnings=warned)
