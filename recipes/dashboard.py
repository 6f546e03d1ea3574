"""Create a table's W&B workspace and report: curves by method, rankings, the table, planned and actual cost.

python -m recipes.dashboard pocket track.project=focalpo     creates them, or updates the existing ones

Without a login (WANDB_API_KEY) nothing is written online; runs tracked with track=offline are uploaded by `wandb sync`.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from focalpo.planning.stages import in_order, report_stage, table_rows
from focalpo.planning.table import composed_table, naming_table, split_arguments
from focalpo.reporting.table_run import newest_reports
from focalpo.running.command import run_command
from focalpo.stages.folder import MANIFEST, Folder, Stage, read_manifest, write_json
from focalpo.stages.metrics import DIAGNOSTICS, METRICS
from focalpo.stages.reading import read_json

LOGGED = METRICS | {f"eval_{name}": metric for name, metric in DIAGNOSTICS.items()}
"""Metrics by the names under which W&B has them."""
ADDRESSES = "dashboard.json"  # under runs/: addresses of what exists, so that it is updated and not created twice

with warnings.catch_warnings():
    # wandb-workspaces 0.4 is written for pydantic v1.
    warnings.filterwarnings("ignore", message="Pydantic V1 style")
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces


def main(arguments: list[str]) -> None:
    """Create or update both; without a login, print what is planned and how to upload offline runs."""
    arguments = naming_table(arguments)
    name = split_arguments(arguments)[0].get("table", "pocket")
    table, configs = composed_table(arguments)
    first = next(iter(configs.values()))
    runs, project = Path(first.runs), first.track.project
    newest = newest_reports(runs, name)
    stages = in_order([report_stage(table, table_rows(table, configs))])
    summary = (newest[0] / "summary.md").read_text() if newest else f"The {name} table is not finished."
    if not os.environ.get("WANDB_API_KEY"):
        print(f"no W&B login (WANDB_API_KEY is not set): nothing was written online; {len(stages)} stages planned")
        print(cost_table(runs, stages))
        print(f"offline runs are in {runs / 'wandb'}; log in, then: wandb sync {runs / 'wandb'}/offline-run-*")
        return
    entity = os.environ.get("WANDB_ENTITY", "")
    known = read_json(runs / ADDRESSES, "delete it; new pages are made") if (runs / ADDRESSES).is_file() else {}
    workspace = workspace_of(entity, project, known.get(f"{project}/{name}/workspace"))
    report = report_of(entity, project, name, summary, cost_table(runs, stages), known.get(f"{project}/{name}/report"))
    workspace.save()
    report.save()
    known |= {f"{project}/{name}/workspace": workspace.url, f"{project}/{name}/report": report.url}
    write_json(runs / ADDRESSES, known)
    print(f"  {workspace.url}\n  {report.url}")


def workspace_of(entity: str, project: str, address: str | None) -> workspaces.Workspace:
    """A workspace with a section per metrics panel and runs grouped by row; updates the one at `address`, if given."""
    workspace = (
        workspaces.Workspace.from_url(address) if address else workspaces.Workspace(entity=entity, project=project)
    )
    workspace.name = "Training by method"
    workspace.sections = [
        workspaces.Section(name=panel, panels=_lines(panel), is_open=True)
        for panel in dict.fromkeys(metric.panel for metric in LOGGED.values())
    ]
    workspace.runset_settings = workspaces.RunsetSettings(groupby=[workspaces.Metric("group")])
    return workspace


def report_of(entity: str, project: str, name: str, summary: str, cost: str, address: str | None) -> reports.Report:
    """A report with the table, the curves of all training runs grouped by row, and planned against actual cost."""
    report = reports.Report.from_url(address) if address else reports.Report(project, entity)
    training = reports.Runset(
        entity=entity, project=project, name="training", filters="Metric('jobType') == 'train'", groupby=["group"]
    )
    report.title, report.description = f"FocalPO, {name} table", "Written by python -m recipes.dashboard"
    report.blocks = [
        reports.H1("Table"),
        reports.MarkdownBlock(summary),
        reports.H1("Training, by method"),
        reports.PanelGrid(runsets=[training], panels=[line for p in ("Optimisation", "Rewards") for line in _lines(p)]),
        reports.H1("Rankings and likelihoods"),
        reports.PanelGrid(runsets=[training], panels=_lines("Likelihood")),
        reports.H1("Diagnostics on held-out pairs"),
        reports.PanelGrid(runsets=[training], panels=_lines("Held-out pairs")),
        reports.H1("Plan and actual cost"),
        reports.MarkdownBlock(cost),
    ]
    return report


def cost_table(runs: Path, stages: Sequence[Stage]) -> str:
    """A Markdown table by kind of stage: the number planned and sealed, the hours so far, and the total expected.

    A missing stage counts as the mean of the sealed stages of its kind; with none sealed, the total is not known.
    """
    planned: dict[str, list[Path]] = {}
    for stage in stages:
        planned.setdefault(stage.kind, []).append(Folder(runs, stage).path)
    lines = ["| kind | planned | sealed | hours so far | hours in all |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind, folders in planned.items():
        seconds = [read_manifest(folder)["seconds"] for folder in folders if (folder / MANIFEST).is_file()]
        expected = f"{sum(seconds) / len(seconds) * len(folders) / 3600:.3f}" if seconds else "not known"
        lines.append(f"| {kind} | {len(folders)} | {len(seconds)} | {sum(seconds) / 3600:.3f} | {expected} |")
    return "\n".join(lines)


def _lines(panel: str) -> list:
    shown = {name: metric.title for name, metric in LOGGED.items() if metric.panel == panel}
    return [reports.LinePlot(title=title, x="step", y=[name], groupby="group") for name, title in shown.items()]


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
