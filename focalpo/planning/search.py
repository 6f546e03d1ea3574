"""The points of a search: for each row of a table, every combination of the values that are tried."""

from focalpo.config.compose import compose_table
from focalpo.config.mistakes import Mistake
from focalpo.config.overrides import expand
from focalpo.config.schema import Config
from focalpo.planning.table import compose_rows, only_row, split_arguments, with_rows

MOST = 100
"""Points that are trained without being asked for by points=N."""

Point = tuple[str, str, tuple[str, ...]]  # setting, row, overrides


def search(arguments: list[str]) -> tuple[str, dict[Point, Config]]:
    """The table's scale, and the configuration of each point of its rows' searches or of the command line's own.

    Raises:
        ValueError: when there are more points than `points=N` allows, or one is wrong.
    """
    limits = [each.removeprefix("points=") for each in arguments if each.startswith("points=")]
    own, overrides = split_arguments([each for each in arguments if not each.startswith("points=")])
    if len(limits) > 1 or not all(each.isdecimal() for each in limits):
        raise Mistake(f"points={','.join(limits)} must be one number, the most points to train")
    most = int(limits[0]) if limits else MOST
    table = with_rows(compose_table(own.get("table", "pocket"), overrides), own)
    tried = {
        row: expand(table.searches.get(row, []), overrides) for row, values in table.rows.items() if values.trained
    }
    if any(len(points) > 1 for points in tried.values()):  # a row with nothing to choose from is none to train here
        tried = {row: points for row, points in tried.items() if len(points) > 1}
    points: list[Point] = [
        (setting, row, tuple(point))
        for setting in table.settings
        for row, tried_of in tried.items()
        for point in tried_of
    ]
    if len(points) > most:
        raise Mistake(
            f"{len(points)} trainings, more than {most}: choose fewer by settings=, rows= or KEY=VALUE, or allow them "
            f"by points={len(points)}"
        )
    configs = {
        (setting, row, point): config
        for setting, row, point in points
        for config in compose_rows(only_row(table, setting, row), list(point)).values()
    }
    return table.scale, configs
