"""Compare start models and trainings with the first author's own runs, which needs no judge and no generation.

python -m recipes.anchors                          the author's settings; their start models, one forward pass each
python -m recipes.anchors table=paper              those of the paper's table that the author had too
python -m recipes.anchors settings=mistral         one of them; trainings that are sealed are compared as well

Ends with 1 where a start model has other log-probs than the author's with any candidate for the lengths: then template,
truncation or data are not the author's, which is better known before a night of training than after it.
"""

import sys

from focalpo.data.hub import hub_rows
from focalpo.data.schemas import convert
from focalpo.data.tokens import pair_trees
from focalpo.data.truncation import Limits
from focalpo.judging.protocol import EVAL
from focalpo.planning.table import Planned, about_table, anchored, planned
from focalpo.reporting.anchors import Line, by_distance, curve_of, fitting, reference_lines, run_lines, shown
from focalpo.reporting.verdicts import read_rule
from focalpo.running.command import anchors_left_to_slurm, run_command
from focalpo.running.schedule import run_stages
from focalpo.stages.author_runs import author_runs
from focalpo.stages.folder import Folder, Job, Stage, read_manifest, write_json
from focalpo.training.engine import start_ranks
from focalpo.training.jobs import source_of, unpinned
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.model import load_model, load_tokenizer, stop_ids
from focalpo.training.positions import check_positions
from focalpo.training.ranks import device, rank
from focalpo.training.scoring import score
from recipes.doctor import gpus

BRANCHES = ("chosen", "rejected")


def make(job: Job) -> dict:
    """Fill the job's folder with `rows.json`, the ids of the author's evaluation rows; return their mean log-probs."""
    start_ranks()
    source, anchor, data = source_of(job), job.settings["anchor"], job.settings["data"]
    check_positions(source, max(longest for _, longest in anchor["lengths"].values()))
    rows = hub_rows(data["path"], data["revision"], data["test_split"])
    split = convert(rows, f"{data['path']} {data['test_split']}", "test", data["ignore_columns"])
    wanted = [number for number in range(1, len(rows) + 1) if author_runs().in_subset(number - 1)]
    pairs = [split.pairs[number] for number in wanted if number in split.pairs]
    tokenizer = load_tokenizer(source)
    stops = stop_ids(source, tokenizer)
    policy = PackedPolicy(load_model(source, job.settings["dtype"], device())).eval()
    measured = {}
    for name, (prompt, longest) in anchor["lengths"].items():
        trees = pair_trees(tokenizer, pairs, Limits(prompt, longest, data["truncation"]), stops).trees
        logps = score(policy, trees, BRANCHES, job.launch["micro_batch_tokens"])
        measured[name] = {branch: sum(logps[branch]) / len(trees) for branch in BRANCHES} | {"rows": len(trees)}
    if rank() == 0:
        write_json(job.path / "rows.json", {"ids": [pair.id for pair in pairs]})
    misfit = _misfit(measured, anchor)
    warnings = [*unpinned(source), *_warnings(measured, anchor, len(rows), len(wanted)), *([misfit] if misfit else [])]
    return {"measured": measured, "rows": len(wanted), "misfit": misfit, "warnings": warnings}


def _warnings(measured: dict, anchor: dict, rows: int, wanted: int) -> list[str]:
    name = anchor["name"]
    found = [] if rows == anchor["rows"] else [f"{name}: {rows} test rows, the author had {anchor['rows']}"]
    lost = {lengths: wanted - each["rows"] for lengths, each in measured.items() if each["rows"] < wanted}
    return found + [f"{name}, {lengths}: {count} of {wanted} rows cannot be used" for lengths, count in lost.items()]


def _misfit(measured: dict, anchor: dict) -> str | None:
    """What is wrong with the start model, where no lengths give the author's log-probs."""
    if fitting(measured, anchor, read_rule(EVAL / "verdicts.yaml")) is not None:
        return None
    closest = by_distance(measured, anchor)[0]
    ours, author = (" and ".join(f"{each[b]:.1f}" for b in BRANCHES) for each in (measured[closest], anchor))
    return (
        f"{anchor['name']}: the start model gives chosen and rejected {ours} nats at best (lengths {closest}), the "
        f"author's {author}: check model, template and data before training"
    )


def compare(arguments: list[str]) -> bool:
    """Measure the start models, print every comparison; whether each start model fits.

    Raises:
        ValueError: when no column of the table has a start model and data of the author's, or GPUs are missing.
    """
    plan = planned(about_table(arguments, "author"))
    anchors = anchored(plan)
    for finding in gpus(plan.first, plan.first.cluster.scheduler == "slurm"):
        if finding.grade == "fail":
            raise ValueError(finding.message)
    if anchors_left_to_slurm(plan):
        return True
    stages = list({stage.key: stage for stage in anchors.values()}.values())
    run_stages(plan.runs, stages, plan.first.launch.workers)
    return show(plan, anchors, stages)


def show(plan: Planned, anchors: dict[str, Stage], stages: list[Stage]) -> bool:
    """Print the comparisons, of trainings where they are sealed; whether each start model fits."""
    rule, told = read_rule(EVAL / "verdicts.yaml"), {}
    lines: list[Line] = []
    for stage in stages:
        facts, anchor = read_manifest(Folder(plan.runs, stage).path)["facts"], stage.settings["anchor"]
        lines += reference_lines(facts, anchor, rule)
        told[stage.name] = fitting(facts["measured"], anchor, rule)
    for place, row in plan.rows.items():
        if row.train is not None and place[0] in anchors and Folder(plan.runs, row.train).sealed:
            folders = (Folder(plan.runs, each).path for each in (row.train, anchors[place[0]]))
            curve = curve_of("/".join(place), *folders)
            lines += run_lines(curve, rule) if curve else []
    for line in lines:
        numbers = f"{shown(line.ours):>11} {shown(line.author):>11}"
        print(f"{line.what:56} {line.step:>10}  {line.quantity:22} {numbers}  {line.verdict}")
    for name, lengths in told.items():
        print(f"{name}: {f'lengths as {lengths} fit' if lengths else 'no candidate for the lengths fits'}")
    return None not in told.values()


if __name__ == "__main__":
    run_command(lambda: None if compare(sys.argv[1:]) else sys.exit(1))
