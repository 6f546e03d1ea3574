"""A table run as the report reads it: the sealed folders behind every place of the table."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from focalpo.reporting.cells import Results, RowSpec, holm_corrected, setting_rows
from focalpo.reporting.judged import Judged, judged_by
from focalpo.reporting.scores import Run
from focalpo.reporting.verdicts import Rule, protocols_of, with_verdicts
from focalpo.stages.folder import MANIFEST, Job, read_manifest
from focalpo.stages.metrics import LEVELS, LOOSE, SCORED
from focalpo.stages.origin import ROOT
from focalpo.stages.rankings import Change, change
from focalpo.stages.records import PairState, read_records

ANSWERS = {"tokens": 1, "unfinished": 100, "repetitive": 100}
"""What a table shows of a row's answers beside the scores, with the factor to its unit."""


@dataclass(frozen=True, slots=True)
class TableRun:
    """The table that a report stage shows, the command that requested it, and the stage's inputs by name."""

    path: Path
    table: dict
    command: tuple[str, ...]
    inputs: Mapping[str, Path]

    @staticmethod
    def read(report: Path) -> "TableRun":
        """Read the run behind a report's folder, sealed or in progress; inputs are its sibling folders under runs/."""
        job = Job.read(report.resolve())
        return TableRun(report, job.settings["table"], tuple(job.launch.get("command", ())), job.inputs)

    @property
    def name(self) -> str:
        """Name of the table's file in conf/table/."""
        return self.table["study"] or self.table["scale"]

    @property
    def settings(self) -> dict[str, str]:
        """Labels of the settings by name."""
        return {name: setting["label"] for name, setting in self.table["settings"].items()}

    @property
    def rows(self) -> dict[str, str]:
        """Labels of the rows by name."""
        return {name: row["label"] for name, row in self.table["rows"].items()}

    def seeds(self, setting: str, row: str, kind: str) -> dict[str, Path]:
        """The row's folders of one kind of stage by seed, in seed order; empty when the row did not run."""
        parts = [(name.split("/"), path) for name, path in self.inputs.items()]
        mine = [(p[2], path) for p, path in parts if len(p) == 4 and (p[0], p[1], p[3]) == (setting, row, kind)]
        return dict(sorted(mine, key=lambda found: [int(part) for part in found[0].split(".")]))

    def scored(self, setting: str, row: str) -> list[Path]:
        """The folders of the stages that scored the row's completions, those of a kind in seed order."""
        return [folder for kind in SCORED for folder in self.seeds(setting, row, kind).values()]

    def benchmark(self, setting: str, name: str) -> Path | None:
        """The folder of the setting's benchmark; None when no row of the setting has completions of it."""
        return self.inputs.get(f"benchmark/{setting}/{name}")

    def questions(self, setting: str, name: str) -> Path | None:
        """The folder of the benchmark whose questions a set of completions answers."""
        generated = [path for row in self.rows for path in self.seeds(setting, row, "generate").values()]
        sets = (Job.read(path).settings.get("sets", {}) for path in generated)  # answers from files have fewer
        return self.benchmark(setting, next((each[name]["questions"] for each in sets if name in each), name))

    def changes(self, setting: str, row: str, split: str) -> list[Change]:
        """Effect of training on the pairs of a split, one per seed; empty for a row that was not trained, or on single
        answers."""
        files = [folder / "dynamics.parquet" for folder in self.seeds(setting, row, "train").values()]
        found = [change(read_records(file, PairState), split) for file in files]
        return [] if any(each.unpaired for each in found) else found

    def results(self, paper: Mapping, rule: Rule, title: str, warnings: tuple[str, ...]) -> Results:
        """Compute the table's cells with intervals, differences and verdicts; the caller adds the notes.

        `paper` holds published numbers by setting and row.
        """
        rows, compare_with = {}, self.table["compare_with"]
        for setting in self.settings:
            specs = [
                RowSpec(name, label, self._runs(setting, name), paper.get(setting, {}).get(name, {}))
                for name, label in self.rows.items()
            ]
            alpaca, arena = (self.benchmark(setting, name) for name in ("alpaca_eval", "arena_hard"))
            found = setting_rows(specs, alpaca and alpaca / "df_gamed.csv", arena, compare_with, rule.equivalent)
            protocols = {name: protocols_of(self.scored(setting, name)) for name in self.rows}
            rows[setting] = [with_verdicts(row, protocols[row.name], rule) for row in found]
        label, judges = self.rows.get(compare_with, ""), {name: self._judges(name) for name in self.settings}
        corrected = holm_corrected(rows)
        return Results(
            title, self.settings, corrected, compare_with, label, (), warnings, rule.equivalent, judges=judges
        )

    def _judges(self, setting: str) -> tuple[Judged, ...]:
        return judged_by([path for row in self.rows for path in self.seeds(setting, row, "judge").values()])

    def _runs(self, setting: str, row: str) -> list[Run]:
        runs = []
        for seed, generate in self.seeds(setting, row, "generate").items():
            places = {kind: self.inputs.get(f"{setting}/{row}/{seed}/{kind}") for kind in SCORED}
            folders = {kind: path for kind, path in places.items() if path is not None}
            facts = _answer_facts(generate) | _scored_facts(folders)
            runs.append(Run(seed, folders | {"generate": generate}, facts))
        return runs


def newest_reports(runs: Path, name: str = "*") -> list[Path]:
    """Sealed reports of the tables with that name, newest first."""
    sealed = [path.parent for path in runs.glob(f"report/{name}-*/{MANIFEST}")]
    return sorted(sealed, key=lambda report: read_manifest(report)["finished"], reverse=True)


def chosen_report(name: str = "pocket") -> Path:
    """The report that notebooks read: the one in FOCALPO_REPORT, else the newest of that name in the checkout's runs/.

    Raises:
        ValueError: when there is none.
    """
    if named := os.environ.get("FOCALPO_REPORT"):
        return Path(named)
    runs = ROOT / "runs"
    found = newest_reports(runs, name)
    if not found:
        raise ValueError(f"{runs} has no report of the {name} table; make it: make reproduce-table1 SCALE={name}")
    return found[0]


def _answer_facts(generate: Path) -> dict[str, float]:
    """What is known of the answers to AlpacaEval or, without it, to the first set: length and broken ones."""
    manifest = read_manifest(generate)
    names = list(manifest["settings"].get("sets", {"alpaca_eval": {}}))
    if not names:
        return {}
    found = manifest["facts"]["alpaca_eval" if "alpaca_eval" in names else names[0]]
    return {name: unit * found[name] for name, unit in ANSWERS.items() if name in found}


def _scored_facts(folders: Mapping[str, Path]) -> dict[str, float]:
    """What is reported beside the scores: the pocket world's gold reward, and the loose scores of what was checked."""
    facts = {kind: read_manifest(folder)["facts"] for kind, folder in folders.items()}
    loose = {
        f"{name}_{level}{LOOSE}": found[level]["loose"]
        for name, found in facts.get("check", {}).items()
        for level in LEVELS
    }
    return facts.get("judge", {}).get("gold", {}) | loose
