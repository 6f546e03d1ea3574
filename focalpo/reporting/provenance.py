"""The chain behind a number: the manifest of every stage that it depends on, and the commands that reproduce it."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from focalpo.reporting.table_run import TableRun
from focalpo.stages.folder import Job, read_manifest
from focalpo.stages.origin import RELEASED, short

Chain = dict[str, dict]
"""Manifests by stage title; inputs come before the stages that use them."""


def chain(folders: Iterable[Path]) -> Chain:
    """Collect the manifests of sealed folders and of everything that they were made from, each once, inputs first.

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
    """The stages' warnings, each once, with the first stage that gave it and the number of others."""
    sources: dict[str, list[str]] = {}
    for title, manifest in stages.items():
        for warning in manifest["facts"].get("warnings", []):
            sources.setdefault(str(warning), []).append(title)
    return [
        f"{text} ({titles[0]}{f' and {len(titles) - 1} more' if len(titles) > 1 else ''})"
        for text, titles in sources.items()
    ]


def dirty(stages: Chain) -> list[str]:
    """A warning when stages were made by code that no commit holds, and so cannot be made again from one."""
    made = [(title, manifest["commit"]) for title, manifest in stages.items() if "+" in manifest["commit"]]
    if not made:
        return []
    (title, commit), others = made[0], f", and {len(made) - 1} more" if len(made) > 1 else ""
    return [
        f"made with changes that no commit holds: {title} at {short(commit)}{others}; commit them and make it again"
    ]


def commits(stages: Chain) -> list[str]:
    """The commits that made the stages, that of the last stage first."""
    return list(dict.fromkeys(manifest["commit"] for manifest in reversed(stages.values())))


def commands(run: TableRun, setting: str, row: str, commit: str) -> list[str]:
    """The command lines that reproduce one row of one setting, together with the row it is compared with.

    `commit` is the report's: stages sealed before it have the same keys there. No commit is checked out when it is
    unknown or the code was changed.
    """
    given = {name: value for name, _, value in (argument.partition("=") for argument in run.command)}
    overrides = [a for a in run.command if a.partition("=")[0] not in ("table", "settings", "rows", "runs")]
    rows = dict.fromkeys([run.table["compare_with"], row]) if run.table["compare_with"] in run.rows else [row]
    if RELEASED in given.get("rows", "").split(","):  # else these rows would be trained
        rows = [RELEASED, *rows]
    table = [f"table={run.name}", f"settings={setting}", f"rows={','.join(rows)}"]
    checkout = [f"git checkout {commit}"] if commit != "unknown" and "+" not in commit else []
    return [
        *checkout,
        _setup(run, setting, row),
        f".venv/bin/python -m recipes.reproduce {shlex.join([*table, *overrides])}",
    ]


def _setup(run: TableRun, setting: str, row: str) -> str:
    """The command that sets up the environment, with the extras that the row's stages use."""
    generated, trained, judged, checked, measured = (
        [Job.read(folder) for folder in run.seeds(setting, row, kind).values()]
        for kind in ("generate", "train", "judge", "check", "capability")
    )
    served = any((job.launch["endpoint"]["base_url"] or "").startswith("vllm ") for job in judged)
    used = {
        "vllm": served or any(job.settings.get("backend") == "vllm" for job in generated),
        "liger": any(job.launch["train"]["kernels"] == "liger" for job in trained),
        "bitsandbytes": any(
            job.settings["train"].get("optimizer") == "adamw8bit" or "quantization" in (job.settings.get("lora") or {})
            for job in trained
        ),
        "laptop": bool(checked or measured),
    }
    extras = [name for name, needed in used.items() if needed]
    return f"make setup EXTRAS={','.join(['dev', *extras])}" if extras else "make setup"
