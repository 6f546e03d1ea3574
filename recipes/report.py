"""The report of a table run from its sealed stages: tables, figures, and one page with everything behind them."""

import yaml

from focalpo.artifact import Job, commit
from focalpo.plan import EVAL
from focalpo.reporting.answers import write_answers
from focalpo.reporting.checklist import checklist
from focalpo.reporting.content import content_of, draw
from focalpo.reporting.document import as_latex_report, as_markdown_report, as_summary
from focalpo.reporting.page import page
from focalpo.reporting.table_run import TableRun
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
STUDIES = {"gamma": "gamma study", "noise": "label noise study", None: "Table 1"}


def make(job: Job) -> dict:
    """Fill the job's folder with the report, its table and its checklist in all formats, figures/ and answers/."""
    run = TableRun.read(job.path)
    table = run.table
    paper = yaml.safe_load((EVAL / table["paper_numbers"]).read_text())["numbers"] if table["paper_numbers"] else {}
    notes = NOTES + ((SCALE_NOTES[table["scale"]],) if table["scale"] in SCALE_NOTES else ())
    title = f"FocalPO, {STUDIES[table['study']]} at {table['scale']} scale, commit {commit()[:12]}"
    results = run.results(paper, title, notes)
    for name, write in (("txt", as_text), ("md", as_markdown), ("csv", as_csv), ("tex", as_latex)):
        (job.path / f"table1.{name}").write_text(write(results))
    (job.path / "summary.md").write_text(as_summary(results))
    (job.path / "figures").mkdir(exist_ok=True)
    content = content_of(run, results, draw(run, results, job.path / "figures"))
    for name, text in (("html", page), ("md", as_markdown_report), ("tex", as_latex_report)):
        (job.path / f"report.{name}").write_text(text(content))
    (job.path / "checklist.md").write_text(checklist(run, results, content.stages))
    write_answers(run, job.path / "answers")
    return {"cells": sum(len(row.cells) for found in results.rows.values() for row in found)}
