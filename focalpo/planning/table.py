"""Turn a command line into a table's configurations and stages; nothing is started.

Every command about a table takes table=NAME settings=A,B rows=A,B seeds=N and any override.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from focalpo.config.compose import CONF, compose, compose_table
from focalpo.config.overrides import spelled
from focalpo.config.schema import Config, RowConfig, TableConfig
from focalpo.planning.stages import Place, Row, report_stage, table_rows
from focalpo.stages.folder import Stage
from focalpo.training.objective import OBJECTIVES

OWN = ("table", "settings", "rows", "seeds")
RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Planned:
    """What a command line requests: the table, the configurations and stages of its rows, and the report."""

    table: TableConfig
    configs: dict[tuple[str, str], Config]
    rows: dict[Place, Row]
    report: Stage

    @property
    def first(self) -> Config:
        return next(iter(self.configs.values()))

    @property
    def runs(self) -> Path:
        return Path(self.first.runs)


def planned(arguments: list[str]) -> Planned:
    """Compose the requested table and plan its stages; start nothing."""
    own, overrides = split_arguments(arguments)
    table = with_rows(compose_table(own.get("table", "pocket")), own)
    configs = compose_rows(table, overrides)
    rows = table_rows(table, configs)
    return Planned(table, configs, rows, report_stage(table, rows, arguments))


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command line into `table=`, `settings=`, `rows=`, `seeds=` and the overrides for Hydra."""
    pairs = [(argument.partition("=")[0], argument) for argument in arguments]
    own = {name: argument.partition("=")[2] for name, argument in pairs if name in OWN}
    return own, [argument for name, argument in pairs if name not in OWN]


def with_rows(table: TableConfig, own: dict[str, str]) -> TableConfig:
    """The table with new objectives added, restricted to the requested settings, rows and seeds.

    Raises:
        ValueError: when a setting or row does not exist, or `seeds` is not a number.
    """
    if "settings" in own:
        chosen = own["settings"].split(",")
        unknown = [name for name in chosen if name not in table.settings]
        if unknown:
            raise ValueError(
                f"settings={own['settings']}: unknown setting {unknown[0]!r}; choose from {', '.join(table.settings)}"
            )
        table = replace(table, settings={name: table.settings[name] for name in chosen})
    rows = dict(table.rows)
    new = {name: RowConfig(cls.label, seeds=3) for name, cls in OBJECTIVES.items()}
    if table.add_new_objectives:
        rows |= {name: row for name, row in new.items() if name not in {*rows, "sft"}}
    names = own["rows"].split(",") if "rows" in own else []
    released = RELEASED in names
    if released:
        rows, new = released_rows(table), {}
        names = [name for name in names if name != RELEASED] or list(rows)
    if names:
        known = new | rows
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"rows={own['rows']}: unknown row {unknown[0]!r}; choose from {', '.join(known)}")
        rows = {name: known[name] for name in names}
    if "seeds" in own:
        if not own["seeds"].isdecimal() or int(own["seeds"]) < 1:
            raise ValueError(f"seeds={own['seeds']} must be a number >= 1")
        rows = {name: replace(row, seeds=int(own["seeds"])) for name, row in rows.items()}
    if not released:
        table = replace(table, settings={name: replace(each, released={}) for name, each in table.settings.items()})
    return replace(table, rows=rows)


def released_rows(table: TableConfig) -> dict[str, RowConfig]:
    """The rows that have a released checkpoint in every setting; these are judged as published, not trained.

    Raises:
        ValueError: when the table names no such checkpoints.
    """
    columns = table.settings.values()
    rows = {name: row for name, row in table.rows.items() if all(name in column.released for column in columns)}
    if not rows:
        raise ValueError(f"rows={RELEASED}: the {table.scale} table names no released checkpoints; remove it")
    return {name: replace(row, label=f"{row.label} (released)", trained=False) for name, row in rows.items()}


def compose_rows(table: TableConfig, overrides: list[str]) -> dict[tuple[str, str], Config]:
    """One configuration per setting and row: its experiment file, or a new objective with its defaults.

    Raises:
        ValueError: with every mistake once, and the rows that have it unless all have.
    """
    configs: dict[tuple[str, str], Config] = {}
    wrong: dict[str, list[str]] = {}
    for setting, column in table.settings.items():
        for row, values in table.rows.items():
            name = values.experiment or row
            experiment = f"{column.experiments}/{name}"
            if (CONF / "experiment" / f"{experiment}.yaml").is_file():
                selected = [f"experiment={experiment}"]
            else:
                selected = [f"objective={name}"] if values.trained else []
            if column.released:
                checkpoint = column.released[row]
                revision = checkpoint.revision and spelled("model.revision", checkpoint.revision)
                selected += [spelled("model.path", checkpoint.path), revision or "model.revision=null"]
            try:
                configs[setting, row] = compose([*column.overrides, *selected, *values.overrides, *overrides])
            except ValueError as error:
                for line in str(error).splitlines():
                    wrong.setdefault(line, []).append(f"{setting}/{row}")
    if wrong:
        total = len(table.settings) * len(table.rows)
        rows = {line: "" if len(places) == total else f"{', '.join(places)}: " for line, places in wrong.items()}
        raise ValueError("\n".join(f"{named}{line}" for line, named in rows.items()))
    return configs
