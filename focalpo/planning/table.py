"""Turn a command line into a table's configurations and stages; nothing is started.

Every command about a table takes table=NAME settings=A,B rows=A,B seeds=N and any override.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from focalpo.config.compose import compose, compose_table, folders_of
from focalpo.config.mistakes import Mistake, choose
from focalpo.config.overrides import meant, spelled
from focalpo.config.schema import Config, RowConfig, TableConfig
from focalpo.planning.stages import Place, Row, report_stage, table_rows
from focalpo.stages.folder import Stage
from focalpo.stages.origin import RELEASED
from focalpo.training.objective import OBJECTIVES

OWN = ("table", "settings", "rows", "seeds")
# A group that every column or row of a table chooses for itself --> what chooses columns and rows.
CHOSEN = {"setting": "settings=NAME,NAME", "experiment": "rows=NAME,NAME", "objective": "rows=NAME,NAME"}
OF_A_COLUMN = ("model", "data")


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
    table, configs = composed_table(arguments)
    rows = table_rows(table, configs)
    return Planned(table, configs, rows, report_stage(table, rows, arguments))


def anchored(plan: Planned) -> dict[str, Stage]:
    """The stage of each column whose start model and data the author had too.

    Raises:
        ValueError: when no column has.
    """
    anchors = {setting: row.anchors for (setting, _, _), row in plan.rows.items() if row.anchors is not None}
    if not anchors:
        known = ", ".join(compose_table("author").settings)
        raise ValueError(f"the author had no run of this table's models and data; take table=author settings={known}")
    return anchors


def composed_table(arguments: list[str], only: str | None = None) -> tuple[TableConfig, dict[tuple[str, str], Config]]:
    """The table that a command line requests, or the `only` one that a command is about, and each row's configuration.

    Raises:
        ValueError: when the command line is wrong.
    """
    own, overrides = split_arguments(arguments)
    if only and "table" in own:
        raise Mistake(f"table={own['table']} is not read: rows and settings are those of conf/table/{only}.yaml")
    table = with_rows(compose_table(only or own.get("table", "pocket"), overrides), own)
    configs = compose_rows(table, overrides)
    return labelled(table, configs, overrides), configs


def labelled(table: TableConfig, configs: dict[tuple[str, str], Config], overrides: list[str]) -> TableConfig:
    """The table whose columns are labelled with the overrides that replace their model or data, if any do."""
    replacing = [each for each in overrides if group_of(each).partition(".")[0] in OF_A_COLUMN]
    others = [each for each in overrides if each not in replacing]
    columns = dict(table.settings)
    for setting, row in [next(place for place in configs if place[0] == each) for each in columns if replacing]:
        with contextlib.suppress(ValueError):  # a column that has none of its own, as that of conf/table/files.yaml
            own = compose(others, _chosen(table, setting, row, overrides))
            if _identity(own) != _identity(configs[setting, row]):
                label = f"{columns[setting].label}, {' '.join(replacing)}"
                columns[setting] = replace(columns[setting], label=label)
    return replace(table, settings=columns)


def _identity(config: Config) -> list[str | None]:
    """Which model and which data a column is about, whatever else of them is set."""
    model, data = config.model, config.data
    places = [getattr(data, name, None) for name in ("path", "revision", "file")]  # of those sources that have them
    return [model.name, model.path, model.revision, data.name, data.source, *places]


def naming_table(arguments: list[str]) -> list[str]:
    """The arguments of a command whose first one may be the name of the table alone."""
    words = [each for each in arguments[:1] if not set("=-") & set(each)]
    return [f"table={each}" for each in words] + arguments[len(words) :]


def about_table(arguments: list[str], name: str) -> list[str]:
    """The arguments of a command that is about the table of that name unless they name another."""
    return arguments if any(each.startswith("table=") for each in arguments) else [f"table={name}", *arguments]


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command line into `table=`, `settings=`, `rows=`, `seeds=` and the overrides for Hydra.

    Raises:
        ValueError: when one of them is given twice, or an override would replace what makes a row or a column.
    """
    keyed = [(argument.partition("=")[0], argument) for argument in arguments]
    own = [(name, argument.partition("=")[2]) for name, argument in keyed if name in OWN]
    overrides = [argument for name, argument in keyed if name not in OWN]
    twice = [name for name in OWN if [key for key, _ in own].count(name) > 1]
    problems = [f"{name}= is given twice; give it once" for name in twice]
    for override in overrides:
        if remedy := CHOSEN.get(group_of(override)):
            what = "column" if remedy.startswith("settings") else "row"
            problems.append(f"{override} would make every {what} of the table the same one; choose them by {remedy}")
    if problems:
        raise Mistake("\n".join(problems))
    return dict(own), overrides


def group_of(override: str) -> str:
    """The key of an override without what Hydra's grammar puts around it: `model` of `+model@here=NAME`."""
    return meant(override)[0].lstrip("+~").partition("@")[0]


def with_rows(table: TableConfig, own: dict[str, str]) -> TableConfig:
    """The table with new objectives added, restricted to the requested settings, rows and seeds.

    Raises:
        ValueError: when a setting or row does not exist, or `seeds` is not a number.
    """
    if "settings" in own:
        chosen = own["settings"].split(",")
        unknown = [name for name in chosen if name not in table.settings]
        if unknown:
            raise Mistake(
                f"settings={own['settings']}: unknown setting {unknown[0]!r}; {choose(unknown[0], table.settings)}"
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
            raise Mistake(f"rows={own['rows']}: unknown row {unknown[0]!r}; {choose(unknown[0], known)}")
        rows = {name: known[name] for name in names}
    if "seeds" in own:
        if not own["seeds"].isdecimal() or int(own["seeds"]) < 1:
            raise Mistake(f"seeds={own['seeds']} must be a number >= 1")
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
        raise Mistake(f"rows={RELEASED}: the {table.scale} table names no released checkpoints; remove it")
    return {name: replace(row, label=f"{row.label} (released)", trained=False) for name, row in rows.items()}


def compose_rows(table: TableConfig, overrides: list[str]) -> dict[tuple[str, str], Config]:
    """One configuration per setting and row: its experiment file, or a new objective with its defaults.

    Raises:
        ValueError: with every mistake once, and the row that has it unless it is in every setting.
    """
    if len(table.settings) > 1 and (of_all := [each for each in overrides if group_of(each) in OF_A_COLUMN]):
        choices = "|".join(table.settings)
        raise Mistake(f"{' '.join(of_all)} would replace that of every column; name its column by settings={choices}")
    places = [(setting, row) for setting in table.settings for row in table.rows]
    first = {next(place for place in places if place[0] == setting) for setting in table.settings}
    wrong: dict[str, list[tuple[str, str]]] = {}
    configs: dict[tuple[str, str], Config] = {}
    # Composing takes its time: where the first row of a setting is wrong, only other losses can be wrong in other ways.
    losses = {loss_of(table, row) for _, row in first}
    for place in sorted(places, key=lambda place: place not in first):
        given = overrides
        if wrong and place not in first:
            loss, given = loss_of(table, place[1]), _unreported(overrides, wrong, loss_of(table, place[1]))
            if (loss and loss in losses) or not any(group_of(each).startswith("objective.") for each in given):
                continue
            losses.add(loss)
        try:
            configs[place] = compose(given, _chosen(table, *place, overrides))
        except ValueError as error:
            for line in str(error).splitlines():
                wrong.setdefault(line, []).append(place)
    if wrong:
        raise Mistake("\n".join(f"{_where(line, found, first)}{line}" for line, found in wrong.items()))
    return {place: configs[place] for place in places}


def loss_of(table: TableConfig, row: str) -> str | None:
    """The loss that a row trains with, by its name or its experiment's; None where neither says."""
    name = (table.rows[row].experiment or row).rpartition("/")[2]
    return name if name in OBJECTIVES else None


def _unreported(overrides: list[str], wrong: Iterable[str], loss: str | None) -> list[str]:
    """The overrides without a reported mistake, and those that are an option of this loss but not of those before."""
    reported = {each for each in overrides if any(line.startswith(f"{each}: ") for line in wrong)}
    options = {f"objective.{each.name}" for each in fields(OBJECTIVES[loss])} if loss else set()  # type: ignore[arg-type]  # dataclasses
    return [each for each in overrides if each not in reported or group_of(each) in options]


def _where(line: str, places: list[tuple[str, str]], first: set[tuple[str, str]]) -> str:
    """The rows found to have a mistake; nothing if every setting has it and it is no row's own, as a loss's is."""
    everywhere = first <= set(places) and not line.startswith("objective.")
    named = line.partition(": ")[0] in OBJECTIVES
    return "" if everywhere or named else ", ".join(map("/".join, places)) + ": "


def _chosen(table: TableConfig, setting: str, row: str, overrides: list[str]) -> list[str]:
    """The overrides that make a row in a setting: its experiment file, or a new objective with its defaults."""
    column, values = table.settings[setting], table.rows[row]
    name = values.experiment or row
    experiment = f"{column.experiments}/{name}"
    if any((folder / "experiment" / f"{experiment}.yaml").is_file() for folder in folders_of(overrides)):
        selected = [f"experiment={experiment}"]
    else:
        selected = [f"objective={name}"] if values.trained else []
    if column.released:
        checkpoint = column.released[row]
        revision = checkpoint.revision and spelled("model.revision", checkpoint.revision)
        selected += [spelled("model.path", checkpoint.path), revision or "model.revision=null"]
    return [*column.overrides, *selected, *values.overrides]


def loss_names() -> set[str]:
    """The names that `objective=` takes."""
    return set(OBJECTIVES)


def only_row(table: TableConfig, setting: str, row: str) -> TableConfig:
    """The table of one row in one setting."""
    return replace(table, settings={setting: table.settings[setting]}, rows={row: table.rows[row]})
