"""The chain behind a number: the manifest of every stage that went into it, and the commands that make it again."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from focalpo.reporting.table_run import TableRun
from focalpo.stages.folder import Job, read_manifest

Chain = dict[str, dict]
"""Manifests by the stage's title, inputs before what uses them."""


def chain(folders: Iterable[Path]) -> Chain:
    """The manifests of sealed folders and of everything they were made from, each once, inputs first.

    Raises:
        ValueError: when a folder of the chain is missing or not sealed.
    """
    found: Chain = {}

    def visit(folder: Path) -> None:
        manifest = read_manifest(folder)
        if manifest["stage"] not in found:
            for needed in manifest["inputs"].values():
                visit(folder.parent.parent / needed)
            found[manifest["stage"]] = manifest

    for folder in folders:
        visit(folder)
    return found


def warnings_of(stages: Chain) -> list[str]:
    """What stages warned of, each line once with the first stage that said it and how many more did."""
    said: dict[str, list[str]] = {}
    for title, manifest in stages.items():
        for warning in manifest["facts"].get("warnings", []):
            said.setdefault(str(warning), []).append(title)
    return [f"{text} ({who[0]}{f' and {len(who) - 1} more' if len(who) > 1 else ''})" for text, who in said.items()]


def commits(stages: Chain) -> list[str]:
    """The commits that made the stages, the one of the last stage first."""
    return list(dict.fromkeys(manifest["commit"] for manifest in reversed(stages.values())))


def commands(run: TableRun, setting: str, row: str, commit: str) -> list[str]:
    """The command lines that make one row of one setting again, with the row it is compared with.

    `commit` is the report's: what was sealed before it has the same keys there. Unknown or changed code has none.
    """
    kept = [a for a in run.command if a.partition("=")[0] not in ("table", "settings", "rows", "runs")]
    rows = dict.fromkeys([run.table["compare_with"], row]) if run.table["compare_with"] in run.rows else [row]
    table = [f"table={run.name}", f"settings={setting}", f"rows={','.join(rows)}"]
    checkout = [f"git checkout {commit}"] if commit != "unknown" and "+" not in commit else []
    return [
        *checkout,
        _setup(run, setting, row),
        f".venv/bin/python -m recipes.reproduce {shlex.join([*table, *kept])}",
    ]


def _setup(run: TableRun, setting: str, row: str) -> str:
    """The command that makes the environment, with the extras that the row's stages were asked to use."""
    generated, trained, judged = (
        [Job.read(folder) for folder in run.seeds(setting, row, kind).values()]
        for kind in ("generate", "train", "judge")
    )
    served = any((job.launch["endpoint"]["base_url"] or "").startswith("vllm ") for job in judged)
    used = {
        "vllm": served or any(job.settings["backend"] == "vllm" for job in generated),
        "liger": any(job.launch["train"]["kernels"] == "liger" for job in trained),
    }
    extras = [name for name, needed in used.items() if needed]
    return f"make setup EXTRAS={','.join(['dev', *extras])}" if extras else "make setup"
