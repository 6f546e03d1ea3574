"""The NeurIPS paper checklist, filled from the manifests of a table run; gaps are stated as gaps."""

from focalpo.reporting.cells import Results
from focalpo.reporting.provenance import Chain, commits
from focalpo.reporting.table_run import TableRun
from focalpo.stages.origin import short


def checklist(run: TableRun, results: Results, stages: Chain) -> str:
    """Return the checklist as Markdown: each question with its answer and where the answer is found."""
    seeds = sorted({len(run.seeds(setting, row, "generate")) for setting in run.settings for row in run.rows} - {0})
    prompts = sorted({cell.prompts for rows in results.rows.values() for row in rows for cell in row.cells.values()})
    where = ", ".join(map(short, commits(stages)))
    items = [
        ("Claims", "yes", "README says what the table shows and does not show; all its numbers are from this report."),
        ("Limitations", "yes", "docs/limits.md: what is not established about the paper, and what was not measured."),
        ("Theory and proofs", "yes", "Derived gradients are marked as derived; tests compare them with autograd."),
        ("Reproducibility", "yes", f"{len(stages)} sealed stages, each with settings, inputs and sha256 of outputs; "
         "`make why CELL=...` prints the commands of any cell."),
        ("Open data and code", "yes", f"Apache-2.0; commits {where}. Data are generated or fetched by sha256."),
        ("Experimental details", "yes", _training(stages)),
        ("Statistical significance", "yes", f"{_list(seeds)} seeds per row, {_list(prompts)} prompts; 95% bootstrap "
         "intervals over prompts crossed with seeds, paired differences, Holm's correction over the table."),
        ("Compute resources", "yes", _compute(stages)),
        ("Code of ethics", "yes", "No human subjects, no personal data."),
        ("Broader impacts", "not applicable", "A reproduction of a published training method; no model is released."),
        ("Safeguards", "not applicable", "No model or scraped data is released."),
        ("Licences of assets", "yes", "docs/protocol.md lists data sets, models and benchmarks with their licences."),
        ("New assets", "yes", "Each stage folder holds its manifest, each exported model a card."),
        ("Crowdsourcing, human subjects", "not applicable", "None."),
        ("Approvals (IRB)", "not applicable", "None needed."),
        ("Use of LLMs", *_judges(stages)),
    ]  # fmt: skip
    lines = [f"{place}. **{name}: {answer}.** {why}" for place, (name, answer, why) in enumerate(items, start=1)]
    return f"# Reproducibility checklist\n\n{results.title}. Made from its manifests.\n\n" + "\n".join(lines) + "\n"


def _training(stages: Chain) -> str:
    trained = [m["settings"] for title, m in stages.items() if title.startswith("train/")]
    if not trained:
        return "Nothing was trained."
    rates = sorted({settings["train"]["learning_rate"] for settings in trained if "train" in settings})
    losses = sorted({settings["objective"]["name"] for settings in trained if "objective" in settings})
    return (
        f"{len(trained)} preference runs with {', '.join(losses)}; learning rates {_list(rates)}. All values are in "
        "conf/ with their sources, and resolved in every manifest. How they were chosen: docs/limits.md."
    )


def _compute(stages: Chain) -> str:
    hours: dict[str, float] = {}
    for title, manifest in stages.items():
        kind = title.partition("/")[0]
        hours[kind] = hours.get(kind, 0.0) + manifest["seconds"] / 3600
    machines = {f"{m['hardware']['cores']} cores, GPUs: {m['hardware']['gpus']}" for m in stages.values()}
    parts = ", ".join(f"{kind} {spent:.2f}" for kind, spent in hours.items())
    total = f"{sum(hours.values()):.2f} stage-hours ({parts}) on {'; '.join(sorted(machines))}"
    resumed = sum(manifest["starts"] > 1 for manifest in stages.values())
    last = f" {resumed} resumed stages count with their last start alone." if resumed else ""
    return f"{total}.{last} Earlier sweeps are not counted."


def _judges(stages: Chain) -> tuple[str, str]:
    protocols = {
        values["protocol"]
        for title, manifest in stages.items()
        if title.startswith("judge/")
        for values in manifest["settings"].get("protocols", {}).values()
    }
    if not protocols:
        return "no", "No model judged: answers were checked by code."
    named = ", ".join(sorted(protocols))
    return "yes", f"As judges only: protocols {named} in eval/. Every request and reply is recorded."


def _list(values: list) -> str:
    return " or ".join(f"{value:g}" for value in values) or "no"
